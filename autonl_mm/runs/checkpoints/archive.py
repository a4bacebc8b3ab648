# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Verification of checkpoint files: their checksums, which torch ignores.

``zipfile`` verifies an archive, but torch's own reader loads it. The two readers may
find different members in one file: each reader searches for the directory in its own
way, and uses fields that the other reader ignores. An archive is therefore accepted
only in its plain form, which both readers read alike: members without gaps, one
directory, its end record.
"""
import errno
import os
import os.path as osp
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, List, NamedTuple, Optional, Union

CHUNK = 2**20  # bytes read at a time
# torch and numpy do not compress. Compression by other programs hardly makes weights
# smaller, so an archive that unpacks to ten times its size is no checkpoint.
MAX_RATIO = 10
SLACK = 2**20  # bytes, for small files, whose zeros compress well

# Records of the zip format.
_LOCAL = struct.Struct('<4s5H3L2H')
_END = struct.Struct('<4s4H2LH')
_END64 = struct.Struct('<4sQ2H2L4Q')
_LOCATOR = struct.Struct('<4sLQL')  # of an _END64
_ENTRY_SIZE = 46  # bytes in the directory, without name, extra fields and comment
# Checksum and sizes may follow a member, in 32 or 64 bits, maybe with a signature.
_DESCRIPTOR_SIZES = 0, 12, 16, 20, 24


class BrokenCheckpointError(RuntimeError):
    """The file is damaged, truncated or not a checkpoint."""

    @classmethod
    def of(cls, path: Union[str, Path], reason: str) -> 'BrokenCheckpointError':
        """The error for a file, which names an earlier undamaged checkpoint.

        Args:
            path (str or Path): The file.
            reason (str): The fault of the file.
        """
        earlier = find_earlier(path)
        return cls(f'{path} ({osp.getsize(path)} bytes) is {reason}. Download or copy '
                   'it again, or ' + (f'use {earlier}, which is undamaged' if earlier
                                      else 'use an earlier checkpoint'))


class Saved(NamedTuple):
    """A checkpoint of a run."""
    number: int  # of epochs or iterations
    time: float
    kind: str  # 'epoch' or 'iter'
    path: str


def list_saved(folder: Union[str, Path]) -> List[Saved]:
    """All ``epoch_N.pth`` and ``iter_N.pth`` of a folder, highest number first."""
    saved = []
    for name in os.listdir(folder) if osp.isdir(folder) else ():
        match = re.fullmatch(r'(epoch|iter)_(\d+)\.pth', name)
        if match:
            path = osp.join(folder, name)
            saved.append(Saved(int(match[2]), osp.getmtime(path), match[1], path))
    return sorted(saved, reverse=True)


def find_earlier(path: Union[str, Path]) -> Optional[str]:
    """Find the newest undamaged checkpoint that was saved before a checkpoint.

    Args:
        path (str or Path): A checkpoint of a run, such as ``epoch_3.pth``.

    Returns:
        str, optional: The path, or None if there is none in the same folder.
    """
    own = osp.getmtime(path)
    # sorted by time, because numbers of epochs and of iterations cannot be compared
    saved = sorted(list_saved(osp.dirname(path) or '.'), key=lambda s: -s.time)
    return next(
        (s.path for s in saved
         if s.time <= own and not osp.samefile(s.path, path) and osp.isfile(s.path)
         and is_archive(s.path) and not find_damage(s.path)), None)


def is_archive(path: Union[str, Path]) -> bool:
    """Whether a file starts as a zip archive, as files of :func:`torch.save` do."""
    with open(path, 'rb') as file:
        return file.read(4) == b'PK\x03\x04'


def check_file(path: Union[str, Path]) -> bool:
    """Verify the checksums of a checkpoint without loading it.

    torch verifies no checksum: a flipped bit in a tensor loads as another number.

    Args:
        path (str or Path): The file.

    Returns:
        bool: Whether it has checksums, which fit. torch's formats from before
        version 1.6 and ``.safetensors`` files have none.

    Raises:
        BrokenCheckpointError: If it is damaged; names the member of the archive
            and an earlier undamaged checkpoint.
        OSError: If it cannot be read.
    """
    if not is_archive(path):
        return False
    damage = find_damage(path)
    if damage:
        raise BrokenCheckpointError.of(path, damage)
    return True


def find_damage(path: Union[str, Path]) -> Optional[str]:
    """Read an archive to its end and find its first fault.

    Args:
        path (str or Path): A zip archive.

    Returns:
        str, optional: The fault, with the name of the first damaged member, or None if
        there is no fault.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            return 'truncated or not a checkpoint (its end is missing)'
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            if declared > MAX_RATIO * osp.getsize(path) + SLACK:
                return f'damaged: its members declare {declared:,} bytes'
            disorder = _find_disorder(archive, members)
            if disorder:
                return f'damaged: {disorder}'
            damaged = _find_damaged(archive, members)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError,
            ValueError, OverflowError, struct.error) as e:
        return f'damaged: its directory is damaged: {e}'
    except OSError as e:
        if e.errno != errno.EINVAL:  # a position that is no position
            raise
        return f'damaged: its directory is damaged: {e}'
    # torch.serialization.set_crc32_options(False) writes no usable checksum at all; the
    # checksum of nothing is right nonetheless
    filled = [member.filename for member in members if member.file_size]
    if damaged and (damaged != filled or len(filled) == 1):
        return f'damaged: the checksum of {damaged[0]} in it is wrong'
    return None


def _find_disorder(archive: zipfile.ZipFile,
                   members: List[zipfile.ZipInfo]) -> Optional[str]:
    """What torch's reader may read differently from ``zipfile``, if anything."""
    members = sorted(members, key=lambda member: member.header_offset)
    starts = [member.header_offset for member in members] + [archive.start_dir]
    if starts[0]:
        return f'{starts[0]:,} bytes precede its first member'
    names, directory_size = set(), 0
    for member, next_start in zip(members, starts[1:]):
        name = member.orig_filename.encode(
            'utf-8' if member.flag_bits & 0x800 else 'cp437')
        end = _find_end(archive.fp, member, name)
        if end is None:
            return f'the headers of {member.filename} in it disagree or are not plain'
        if next_start - end not in _DESCRIPTOR_SIZES:
            return f'{member.filename} in it does not end where the next member starts'
        if name.lower() in names:  # torch's reader ignores case
            return f'it has two members {member.filename}'
        names.add(name.lower())
        directory_size += (
            _ENTRY_SIZE + len(name) + len(member.extra) + len(member.comment))
    archive.fp.seek(archive.start_dir)
    if not _is_directory(archive.fp.read(), archive.start_dir, directory_size,
                         len(members)):
        return 'its directory is not followed by its end record alone'
    return None


def _find_end(file: BinaryIO, member: zipfile.ZipInfo, name: bytes) -> Optional[int]:
    """Where a member's data end, or None if its headers disagree or are not plain."""
    file.seek(member.header_offset)
    _, _, flags, method, _, _, *sizes, name_size, extra_size = _LOCAL.unpack(
        file.read(_LOCAL.size))
    expected = member.CRC, member.compress_size, member.file_size
    # sizes that were not known yet, or that are in an extra field
    unknown = (0xffffffff, 0) if flags & 8 else (0xffffffff, )
    if (method != member.compress_type or file.read(name_size) != name
            # torch's reader knows no other methods
            or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or any(a != b and a not in unknown for a, b in zip(sizes, expected))
            # zipfile reads the smaller size of a member that is not compressed
            or (method == zipfile.ZIP_STORED and expected[1] != expected[2])
            # torch's reader reads nothing of a folder
            or (member.file_size and (name.endswith(b'/') or member.external_attr & 16))
            # zipfile cuts a name at a zero byte, and may take the second of two fields
            or member.filename != member.orig_filename
            or _count_long_sizes(member.extra) > 1):
        return None
    return file.tell() + extra_size + member.compress_size


def _count_long_sizes(extra: bytes) -> int:
    """The number of fields with 64-bit sizes among a member's extra fields."""
    count = 0
    while len(extra) >= 4:
        kind, size = struct.unpack('<2H', extra[:4])
        count += kind == 1
        extra = extra[4 + size:]
    return count


def _is_directory(content: bytes, start: int, size: int, count: int) -> bool:
    """Whether the rest of a file is only a directory with its end records.

    Args:
        content (bytes): The rest of the file, from the directory on.
        start (int): The position of the directory.
        size (int): The size of the directory without end records, in bytes.
        count (int): The number of its members.
    """
    fields = count, count, size, start
    end = content[size:]
    if len(end) == _END.size:
        # a locator at the end of the directory would be taken for an end record's
        return (_END.unpack(end) == (b'PK\5\6', 0, 0, *fields, 0)
                and content[-_LOCATOR.size - _END.size:][:4] != b'PK\6\7')
    if len(end) != _END64.size + _LOCATOR.size + _END.size:
        return False
    signature, length, _, _, *rest = _END64.unpack_from(end)
    locator = _LOCATOR.unpack_from(end, _END64.size)
    last = _END.unpack_from(end, _END64.size + _LOCATOR.size)
    return ((signature, length, *rest) == (b'PK\6\6', _END64.size - 12, 0, 0, *fields)
            and locator == (b'PK\6\7', 0, start + size, 1)
            and (last[0], last[-1]) == (b'PK\5\6', 0))


def _find_damaged(archive: zipfile.ZipFile,
                  members: List[zipfile.ZipInfo]) -> List[str]:
    """Names of the members whose content does not fit their checksum."""
    damaged = []
    for member in members:
        try:
            with archive.open(member) as file:
                while file.read(CHUNK):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError):
            damaged.append(member.filename)
    return damaged

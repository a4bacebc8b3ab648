# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Verification of checkpoint files: their checksums, which torch ignores."""
import errno
import os
import os.path as osp
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import List, NamedTuple, Optional, Union

CHUNK = 2**20  # bytes read at a time
# torch and numpy do not compress. Weights that someone else compressed come close to
# their own size; an archive that unpacks to ten times its size is no checkpoint.
MAX_RATIO = 10
SLACK = 2**20  # bytes, for small files, whose zeros compress well


class BrokenCheckpointError(RuntimeError):
    """The file is damaged, truncated or not a checkpoint."""

    @classmethod
    def of(cls, path: Union[str, Path], reason: str) -> 'BrokenCheckpointError':
        """The error for a file, which names an earlier checkpoint that is whole.

        Args:
            path (str or Path): The file.
            reason (str): What is wrong with it.
        """
        earlier = find_earlier(path)
        return cls(f'{path} ({osp.getsize(path)} bytes) is {reason}. Download or copy '
                   'it again, or ' + (f'take {earlier}, which is whole' if earlier
                                      else 'take an earlier one'))


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
    """Find the newest checkpoint that was saved before another one and is undamaged.

    Args:
        path (str or Path): A checkpoint of a run, such as ``epoch_3.pth``.

    Returns:
        str, optional: The path, or None if there is none in the same folder.
    """
    own = osp.getmtime(path)
    # by their times: numbers of epochs and of iterations cannot be compared
    saved = sorted(list_saved(osp.dirname(path) or '.'), key=lambda s: -s.time)
    return next(
        (s.path for s in saved
         if s.time <= own and not osp.samefile(s.path, path) and osp.isfile(s.path)
         and is_archive(s.path) and not find_damage(s.path)), None)


def is_archive(path: Union[str, Path]) -> bool:
    """Whether a file starts as a zip archive, as what :func:`torch.save` writes."""
    with open(path, 'rb') as file:
        return file.read(4) == b'PK\x03\x04'


def check_file(path: Union[str, Path]) -> bool:
    """Verify what can be verified of a checkpoint without loading it.

    torch verifies no checksum: a flipped bit in a tensor loads as another number.

    Args:
        path (str or Path): The file.

    Returns:
        bool: Whether it has checksums, which fit. torch's formats from before
        version 1.6 and ``.safetensors`` files have none.

    Raises:
        BrokenCheckpointError: If it is damaged; names the member of the archive
            and an earlier checkpoint that is whole.
        OSError: If it cannot be read.
    """
    if not is_archive(path):
        return False
    if not zipfile.is_zipfile(path):
        raise BrokenCheckpointError.of(
            path, 'truncated or not a checkpoint (its end is missing)')
    damage = find_damage(path)
    if damage:
        raise BrokenCheckpointError.of(path, f'damaged: {damage}')
    return True


def find_damage(path: Union[str, Path]) -> Optional[str]:
    """Read an archive to its end and find what is wrong with it.

    Args:
        path (str or Path): A zip archive.

    Returns:
        str, optional: What is wrong, with the name of the first member that is
        damaged, or None if there is nothing.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            if declared > MAX_RATIO * osp.getsize(path) + SLACK:
                return f'its members declare {declared:,} bytes'
            damaged = _find_damaged(archive, members)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError,
            ValueError, OverflowError, struct.error) as e:
        return f'its directory is damaged: {e}'
    # torch.serialization.set_crc32_options(False) writes no usable checksum at all
    if damaged and not (len(damaged) == len(members) > 1):
        return f'the checksum of {damaged[0]} in it is wrong'
    return None


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
        except OSError as e:
            if e.errno != errno.EINVAL:  # a position that is no position
                raise
            damaged.append(member.filename)
    return damaged

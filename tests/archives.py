# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Archives that ``zipfile`` and torch's own reader may read differently."""
import io
import struct
import zipfile
import zlib

import torch

END = 22  # bytes of an end record
MEMBERS = {'version': b'3\n', 'data.pkl': b'N.', 'data/0': b'first' * 9}
OTHER = {**MEMBERS, 'data/0': b'other' * 9}


def read_by_zipfile(path):
    """The members' content by name, as it is verified."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename.partition('/')[2]: archive.read(info)
                for info in archive.infolist()}


def read_by_torch(path):
    """The members' content by name, as it is loaded."""
    reader = torch._C.PyTorchFileReader(str(path))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def pack(members=MEMBERS, **fields):
    """A plain archive of uncompressed members, with fields of ``ZipInfo``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(f'a/{name}', (2026, 1, 1, 0, 0, 2))
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, content)
    return buffer.getvalue()


def split(data):
    """The members, the directory and the end record of a plain archive."""
    start, = struct.unpack('<L', data[-6:-2])
    return data[:start], data[start:-END], data[-END:]


def pack_sizes(content, size=None):
    """Checksum and both sizes of an uncompressed member, as in its headers."""
    return struct.pack('<3L', zlib.crc32(content), len(content), size or len(content))


def add_comment(comment):
    return pack()[:-2] + struct.pack('<H', len(comment)) + comment


def pack_long_end(count, directory, start):
    """The 64-bit end record of a directory, and the locator of this record."""
    return (struct.pack('<4sQ2H2L4Q', b'PK\6\6', 44, 45, 45, 0, 0, count, count,
                        len(directory), start),
            struct.pack('<4sLQL', b'PK\6\7', 0, start + len(directory), 1))


def lengthen(data, count=None, locator=None):
    """A plain archive with a 64-bit end record, as torch's have."""
    members, directory, end = split(data)
    record, own = pack_long_end(count or end[8], directory, len(members))
    return members + directory + record + (locator or own) + end


def hide_directory(in_comment):
    """The last member is another directory, to which a locator leads torch's reader."""
    members = {**MEMBERS, 'data/1': b''}
    blank = bytes(20 * in_comment)
    position = len(split(pack(members))[0])
    directory = split(pack(members, comment=blank))[1]
    members['data/1'] = bytes(len(directory) + 56)
    directory = split(pack(members, comment=blank))[1]  # with the last member's size

    end, locator = pack_long_end(4, directory, position)
    members['data/1'] = directory.replace(b'data/0', b'data/9') + end
    if in_comment:
        return pack(members, comment=locator)
    return lengthen(pack(members), locator=locator)


def take_two_sizes():
    """A stored member whose first half alone fits its checksum."""
    whole = b'half' * 6
    return pack({**MEMBERS, 'data/0': whole}).replace(
        pack_sizes(whole), pack_sizes(whole[:12], size=24))


def add_long_sizes():
    """Two fields with 64-bit sizes, of which the readers take different ones."""
    members, directory, end = split(
        pack(extra=struct.pack('<2H2Q', 1, 16, 0xffffffff, 0xffffffff)
             + struct.pack('<2H2Q', 1, 16, 45, 45)))
    start = directory.index(pack_sizes(MEMBERS['data/0'])) + 4
    return members + directory[:start] + b'\xff' * 8 + directory[start + 8:] + end


def hide_first():
    """The directory leaves out the first member."""
    members, directory, end = split(pack({'old': b'', **MEMBERS}))
    directory = directory[directory.index(b'PK\1\2', 1):]
    return (members + directory + end[:8]
            + struct.pack('<2H2L', 3, 3, len(directory), len(members)) + end[-2:])


def rename_local():
    """All names differ, so that all members look as if they had no checksum."""
    members, directory, end = split(pack())
    return members.replace(b'a/', b'b/') + directory + end


def place_far():
    """The first member is so long that no file has a position for the second one."""
    length = struct.pack('<2HQ', 1, 8, 2**62)
    members, directory, end = (bytearray(part) for part in split(
        pack({'version': b'3\n', 'data.pkl': b'N.'}, extra=length)))
    second = directory.rindex(b'PK\1\2')
    members[8] = directory[10] = zipfile.ZIP_DEFLATED
    members[18:22] = directory[20:24] = directory[second + 42:second + 46] = b'\xff' * 4
    directory[-8:] = (members.index(b'3\n') + 2**62).to_bytes(8, 'little')
    return bytes(members + directory + end)


def overlap():
    """A member that covers the next one."""
    members, _, _ = split(pack())
    start = members.index(b'3\n')
    covering = members[start:members.index(b'N.') + 2]
    return pack().replace(pack_sizes(MEMBERS['version']), pack_sizes(covering))


def add_gap():
    members, directory, end = split(pack())
    return (members + bytes(13) + directory + end[:-6]
            + struct.pack('<L', len(members) + 13) + end[-2:])


def change(signature, offset, value):
    """Another byte in the last header with a signature: in one of its two headers."""
    data = bytearray(pack())
    data[data.rindex(signature) + offset] = value
    return bytes(data)


# Read differently by the two.
DIFFERENT = dict(
    two_archives=lambda: pack() + pack(OTHER),
    archive_in_comment=lambda: add_comment(pack(OTHER)),
    locator_in_comment=lambda: hide_directory(True),
    locator_elsewhere=lambda: hide_directory(False),
    two_sizes=take_two_sizes,
    folder=lambda: change(b'PK\1\2', 38, 16),
    case=lambda: pack({**MEMBERS, 'DATA/0': b'case' * 9}),
    count=lambda: pack()[:-14] + struct.pack('<2H', 2, 2) + pack()[-10:],
    long_count=lambda: lengthen(pack(), count=2))

# Read alike today, or by one of them only.
REFUSED = dict(
    prefix=lambda: split(pack(OTHER))[0] + pack(),
    suffix=lambda: pack() + b'\0',
    comment=lambda: add_comment(b'comment'),
    cut_comment=lambda: lengthen(pack())[:-2] + b'\5\0',
    end_in_comment=lambda: add_comment(pack(OTHER)[-END:]),
    cut_end_in_comment=lambda: add_comment(pack(OTHER)[-END:-3]),
    twice=lambda: pack({**MEMBERS, 'data/1': b''}).replace(b'data/1', b'data/0'),
    method=lambda: pack(compress_type=zipfile.ZIP_LZMA),
    zero_in_name=lambda: pack().replace(b'data/0', b'data\0x'),
    long_sizes=add_long_sizes,
    overlap=overlap,
    hide_first=hide_first,
    rename_local=rename_local,
    place_far=place_far,
    gap=add_gap,
    local_name=lambda: pack().replace(b'data/0', b'data/1', 1),
    local_method=lambda: change(b'PK\3\4', 8, 8),
    local_size=lambda: change(b'PK\3\4', 18, 44),
    local_checksum=lambda: change(b'PK\3\4', 14, 0))

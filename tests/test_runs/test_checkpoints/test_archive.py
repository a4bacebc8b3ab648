# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What is damaged in a checkpoint's archive is found, and named."""
import io
import zipfile

import pytest
import torch
from archives import DIFFERENT, REFUSED, pack, read_by_torch, read_by_zipfile
from conftest import call_main, load_tool, main_error

from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    archive,
    check_file,
    find_earlier,
    find_resumable,
    load_checkpoint,
)


def save(path, **kwargs):
    torch.manual_seed(0)
    state = dict(first=torch.randn(500), second=torch.randn(3, 4), empty=torch.empty(0))
    torch.save(dict(meta=dict(epoch=1), state_dict=state), path, **kwargs)
    return path


def damage(path, how, member='data/0'):
    """Change the middle of a member; the archive's directory stays as it was."""
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(member))
        content = archive.read(info)
    data = bytearray(path.read_bytes())
    middle = data.index(content) + len(content) // 2
    if how == 'bit':
        data[middle] ^= 4
    else:
        data[middle:middle + 512] = bytes(512)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('how', ['bit', 'zeros'])
def test_a_damaged_tensor(how, tmp_path):
    path = damage(save(tmp_path / 'a.pth'), how)
    torch.load(path)  # torch takes it
    with pytest.raises(BrokenCheckpointError,
                       match=r'a\.pth .* checksum of a/data/0 in it is wrong'):
        load_checkpoint(path)


def test_archives_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(load_checkpoint(path)['state_dict']) == 3


def test_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / 'a.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', b'\x80\x02N.')
        with archive.open('a/data/0', 'w', force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2**17
    with pytest.raises(BrokenCheckpointError, match='declare 67,108,868 bytes'):
        load_checkpoint(path)


class Pipe(io.RawIOBase):
    """A file that can only be appended to."""

    def __init__(self):
        self.content = b''

    def writable(self):
        return True

    def write(self, data):
        self.content += data
        return len(data)


@pytest.mark.parametrize('long', [False, True])
@pytest.mark.parametrize('seekable', [False, True])
@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_packed_by_someone_else(method, seekable, long, tmp_path):
    """With folders, descriptors after the members, 64-bit sizes."""
    file = io.BytesIO() if seekable else Pipe()
    with zipfile.ZipFile(save(tmp_path / 'a.pth')) as plain, zipfile.ZipFile(
            file, 'w', method) as packed:
        packed.writestr('a/', b'')
        for name in plain.namelist():
            with packed.open(name, 'w', force_zip64=long) as member:
                member.write(plain.read(name))
    path = tmp_path / 'b.pth'
    path.write_bytes(file.getvalue() if seekable else file.content)
    assert check_file(path)
    assert torch.equal(load_checkpoint(path)['state_dict']['first'],
                       load_checkpoint(tmp_path / 'a.pth')['state_dict']['first'])
    contents = read_by_zipfile(path)
    assert contents.pop('') == b''  # the folder
    assert contents == read_by_zipfile(tmp_path / 'a.pth')
    assert contents == read_by_torch(tmp_path / 'a.pth')


def test_larger_than_four_gigabytes(tmp_path):
    """torch's headers with 64-bit sizes and positions; the file has a hole."""
    with torch.serialization.skip_data():
        torch.save([torch.empty(2**32, dtype=torch.uint8), torch.ones(2)],
                   tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as file:
        assert archive._find_disorder(file, file.infolist()) is None


@pytest.mark.parametrize('name', [*DIFFERENT, *REFUSED])
def test_what_readers_may_read_differently(name, tmp_path):
    """What is verified is what is loaded."""
    path = tmp_path / 'a.pth'
    path.write_bytes(pack())
    assert check_file(path) and read_by_torch(path) == read_by_zipfile(path)
    path.write_bytes({**DIFFERENT, **REFUSED}[name]())
    if name in DIFFERENT:
        assert read_by_torch(path) != read_by_zipfile(path)
    with pytest.raises(BrokenCheckpointError, match=r'a\.pth .* (damaged|truncated)'):
        check_file(path)


def test_resume_skips_what_is_damaged(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path / f'epoch_{epoch}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    assert find_resumable(tmp_path) == str(tmp_path / 'epoch_3.pth')
    damage(tmp_path / 'epoch_3.pth', 'bit')
    damage(tmp_path / 'epoch_2.pth', 'zeros')
    assert find_resumable(tmp_path) == str(tmp_path / 'epoch_1.pth')
    assert find_earlier(tmp_path / 'epoch_3.pth') == str(tmp_path / 'epoch_1.pth')
    with pytest.raises(BrokenCheckpointError,
                       match=r'epoch_3.*/data/0 .*use .*epoch_1\.pth, which is '
                             r'undamaged'):
        load_checkpoint(tmp_path / 'epoch_3.pth')
    assert find_earlier(tmp_path / 'epoch_1.pth') is None


def test_publishing_and_converting(tmp_path, monkeypatch):
    path = damage(save(tmp_path / 'a.pth'), 'bit')
    for tool, *args in (('publish_model', ), ('autonl_to_mm', '--arch', 's')):
        tool = load_tool(f'tools/model_converters/{tool}.py')
        message = main_error(monkeypatch, tool, path, tmp_path / 'out.pth', *args)
        assert 'a/data/0' in message
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']
    call_main(monkeypatch, load_tool('tools/model_converters/publish_model.py'),
              save(tmp_path / 'b.pth'), tmp_path / 'out.pth')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What is damaged in a checkpoint's archive is found, and named."""
import zipfile

import pytest
import torch
from conftest import call_main, load_tool, main_error

from autonl_mm.checkpoint import (
    BrokenCheckpointError,
    find_earlier,
    find_resumable,
    load_checkpoint,
)


def save(path, **kwargs):
    torch.manual_seed(0)
    state = dict(first=torch.randn(500), second=torch.randn(3, 4))
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
    assert len(load_checkpoint(path)['state_dict']) == 2


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


def test_compressed_by_someone_else(tmp_path):
    with zipfile.ZipFile(save(tmp_path / 'a.pth')) as plain, zipfile.ZipFile(
            tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert torch.equal(load_checkpoint(tmp_path / 'b.pth')['state_dict']['first'],
                       load_checkpoint(tmp_path / 'a.pth')['state_dict']['first'])


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
                       match=r'epoch_3.*/data/0 .*take .*epoch_1\.pth, which is whole'):
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

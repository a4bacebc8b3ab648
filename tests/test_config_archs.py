# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A file in a config that is no network is found before anything is built."""
import pytest
from mmengine.config import Config

from autonl_mm.config_checks import check_archs


@pytest.mark.parametrize('content, words', [
    (b'r1_k3_s11_e1_i8_o8\nr1_k4', r'line 2 .*expected an odd kernel'),
    (b'', 'no block found'), (b'\xff\xfe\0', 'is not a text file'),
    (None, 'there is no such file')], ids=['notation', 'empty', 'binary', 'missing'])
@pytest.mark.parametrize('place', ['backbone', 'model.backbone', 'backbone.parts.1'])
def test_a_file_that_is_no_network_is_named(place, content, words, tmp_path):
    path = tmp_path / 'arch.txt'
    if content is not None:
        path.write_bytes(content)
    cfg = Config(dict(model=dict(
        backbone=dict(parts=[{}, {}], type='x', arch='no'), model={})))
    check_archs(cfg.model)
    cfg.merge_from_dict({f'model.{place}': dict(
        type='autonl_mm.AutoNL', arch=str(path))}, allow_list_keys=True)
    start = rf'^model\.{place}\.arch: '
    with pytest.raises(ValueError, match=rf'{start}.*arch\.txt.*{words}'):
        check_archs(cfg.model)
    cfg.merge_from_dict({f'model.{place}.arch': str(tmp_path)})
    with pytest.raises(ValueError, match=rf'{start}.* is a folder'):
        check_archs(cfg.model)

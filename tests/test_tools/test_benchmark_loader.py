# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re

import pytest
from conftest import ROOT, load_tool, main_error, run_tool
from mmengine.config import ConfigDict

TOOL = 'tools/benchmarks/benchmark_loader.py'
CONFIG = 'configs/mmpretrain/autonl-s_32xb128_in1k.py'
tool = load_tool(TOOL)


@pytest.mark.long
def test_one_row_per_decoder(image_folder, tmp_path):
    out = tmp_path / 'loader.json'
    printed = run_tool(
        TOOL, CONFIG, '--decoders', 'cv2', 'pillow', '--workers', '0', '1',
        '--rounds', '2', '--num-samples', '8', '--out', out, '--cfg-options',
        f'train_dataloader.dataset.data_root={image_folder}',
        'train_dataloader.dataset.metainfo.classes=[a,b]',
        'train_dataloader.batch_size=4').stdout
    assert '| decoder | one core | 1 workers |' in printed
    record = json.loads(out.read_text())
    rates = {(r['decoder'], r['workers']): r['images_per_second']
             for r in record['rates']}
    assert list(rates) == [('cv2', 0), ('cv2', 1), ('pillow', 0), ('pillow', 1)]
    for (decoder, _), values in rates.items():
        assert len(values) == 2
        assert f'{sum(values) / 2:.0f} (' in re.search(
            rf'^\| {decoder} \|.*', printed, re.MULTILINE)[0]
    assert record['batch_size'] == 4


def test_all_that_decodes_images_is_set():
    inner = [dict(type='LoadImageFromFile', to_float32=True),
             dict(type='LoadAnnotations', imdecode_backend='pillow')]
    node = ConfigDict(
        type='RepeatDataset', times=2, dataset=dict(pipeline=inner),
        pipeline=[dict(type='autonl_mm.LoadImageOrSkip')])
    assert tool.set_decoder(node, 'turbojpeg') == 2
    assert node.dataset.pipeline[0] == dict(
        type='autonl_mm.LoadImageOrSkip', imdecode_backend='turbojpeg',
        to_float32=True)
    assert node.dataset.pipeline[1] == inner[1]
    assert node.pipeline[0].imdecode_backend == 'turbojpeg'


def test_a_pass_takes_the_given_images():

    class Images:

        def __len__(self):
            return 10

        def __getitem__(self, i):
            seen.append(i)
            return i

    seen = []
    config = dict(batch_size=2, sampler=dict(type='DefaultSampler'),
                  collate_fn=dict(type='default_collate'), num_workers=8,
                  persistent_workers=True)
    run = tool.make_pass(config, Images(), [7, 1, 4], 0)
    run()
    run()
    assert seen == [7, 1, 4] * 2


@pytest.mark.parametrize('args, words', [
    ([], r"data_root: 'data/imagenet'.*--cfg-options"),
    (['--phase', 'val'], r"val_dataloader.*data_root: 'data/imagenet'"),
    (['--rounds', '0'], '--rounds is 0, expected at least 1')])
def test_bad_settings(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(words, main_error(monkeypatch, tool, ROOT / CONFIG, *args))

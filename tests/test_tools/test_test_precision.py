# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Predictions of tools/test.py in half precision, compared with float32."""
import mmengine
import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error, run_tool, tiny_training
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

tool = load_tool('tools/research/compare_predictions.py')


def test_half_precision(image_folder, tmp_path, scope, monkeypatch, capsys):
    cfg = tiny_training(image_folder, batch_size=8, max_epochs=1)
    path = tmp_path / 'config.py'
    cfg.dump(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    save_checkpoint(dict(state_dict=MODELS.build(cfg.model).state_dict()),
                    str(tmp_path / 'a.pth'))
    out = []
    for dtype in 'float32', 'bfloat16':
        out.append(tmp_path / f'{dtype}.pkl')
        run_tool('tools/test.py', path, tmp_path / 'a.pth', '--work-dir',
                 tmp_path, '--dtype', dtype, '--out', out[-1])
    full, half = (mmengine.load(o) for o in out)
    assert len(full) == len(half) == 16
    difference = max((a['pred_score'] - b['pred_score']).abs().max()
                     for a, b in zip(full, half))
    assert 0 < difference < 0.02
    capsys.readouterr()
    call_main(monkeypatch, tool, *out)
    equal = sum(int(a['pred_label'] == b['pred_label']) for a, b in zip(full, half))
    assert capsys.readouterr().out == (
        f'{equal} of 16 labels agree, {100 * equal / 16:.2f} %\n')


@pytest.mark.parametrize('name, options', [
    ('test.py', []), ('deployment/export.py', ['--input-shape', 32])])
def test_weights_of_another_network(name, options, image_folder, tmp_path, scope):
    """Evaluation and export refuse them with the same words."""
    cfg = tiny_training(image_folder, batch_size=8, max_epochs=1)
    cfg.dump(tmp_path / 'config.py')
    cfg.model.backbone.arch[0] = 'r1_k5_s11_e1_i8_o8'
    init_default_scope(cfg.default_scope)
    save_checkpoint(dict(state_dict=MODELS.build(cfg.model).state_dict()),
                    str(tmp_path / 'a.pth'))
    result = run_tool(f'tools/{name}', tmp_path / 'config.py', tmp_path / 'a.pth',
                      *options, cwd=tmp_path, check=False)
    assert result.returncode == 1
    *_, last = result.stdout.splitlines()
    for word in (name.split('/')[-1], 'a.pth has weights of another network',
                 '1 of ', 'backbone.layers.1.'):
        assert word in last


def test_one_precision_at_a_time(tmp_path, monkeypatch):
    (tmp_path / 'a.pth').touch()
    message = main_error(
        monkeypatch, load_tool('tools/test.py'),
        ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py', tmp_path / 'a.pth',
        '--work-dir', tmp_path, '--amp', '--dtype', 'float16')
    assert '--amp and --dtype float16' in message


def test_several_labels_of_an_image(tmp_path, monkeypatch, capsys):
    """A multi-label head predicts any number of labels, none too."""
    files = []
    for name, predictions in dict(a=[[1, 2], [0], []], b=[[2], [0, 3], []]).items():
        files.append(tmp_path / f'{name}.pkl')
        mmengine.dump([dict(pred_label=torch.tensor(labels))
                       for labels in predictions], files[-1])
    call_main(monkeypatch, tool, *files)
    assert capsys.readouterr().out == '3 of 5 labels agree, 60.00 %\n'

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Trainings with mmengine's FlexibleRunner and its strategies."""
import pytest
import torch
from conftest import call_main, load_tool, main_error, run_ranks, tiny_training
from mmengine.config import Config

from autonl_mm.runs import configs
from autonl_mm.runs.checkpoints import fit_wrappers, load_checkpoint

train, test = load_tool('tools/train.py'), load_tool('tools/test.py')


@pytest.fixture
def config(image_folder, tmp_path):
    """Writes a config of two epochs with a strategy and other settings; its path."""
    def write(strategy, **settings):
        cfg = tiny_training(image_folder, batch_size=4, max_epochs=2)
        if strategy:
            cfg.update(runner_type='FlexibleRunner', strategy=strategy)
        cfg.merge_from_dict(settings)
        cfg.dump(tmp_path / 'config.py')
        return tmp_path / 'config.py'

    return write


def test_a_single_device(config, monkeypatch, tmp_path, capsys, scope):
    """It trains, resumes and is evaluated; the learning rate follows the images of a
    step of the optimiser."""
    path = config(dict(type='SingleDeviceStrategy'),
                  auto_scale_lr=dict(enable=True, base_batch_size=16),
                  **{'optim_wrapper.accumulative_counts': 2,
                     'optim_wrapper.optimizer.lr': 0.01, 'param_scheduler': None})
    run = [path, '--work-dir', tmp_path / 'run']
    call_main(monkeypatch, train, *run)
    # two batches of 4 images
    assert 'Scaling the original LR by 0.5' in capsys.readouterr().out
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert saved['optimizer']['param_groups'][0]['lr'] == 0.005
    assert saved['meta']['autonl_mm']['images_per_step'] == 8
    call_main(monkeypatch, train, *run, '--resume', '--cfg-options',
              'train_cfg.max_epochs=3')
    again = torch.load(tmp_path / 'run/epoch_3.pth', weights_only=False)
    assert again['meta']['iter'] == 3 * saved['meta']['iter'] // 2
    call_main(monkeypatch, test, path, tmp_path / 'run/epoch_3.pth', '--work-dir',
              tmp_path / 'test')
    assert 'accuracy/top1' in capsys.readouterr().out


@pytest.mark.parametrize('strategy', [None, dict(type='SingleDeviceStrategy')])
def test_a_learning_rate_that_is_not_scaled(strategy, config, monkeypatch, tmp_path,
                                            scope):
    """Neither base batch size nor scaling: accumulation changes nothing."""
    path = config(strategy, auto_scale_lr=dict(enable=False),
                  **{'optim_wrapper.accumulative_counts': 2, 'param_scheduler': None,
                     'optim_wrapper.optimizer.lr': 0.01})
    call_main(monkeypatch, train, path, '--work-dir', tmp_path / 'run')
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert saved['optimizer']['param_groups'][0]['lr'] == 0.01
    assert 'auto_scale_lr.base_batch_size' in main_error(
        monkeypatch, train, path, '--work-dir', tmp_path / 'run', '--cfg-options',
        'auto_scale_lr.enable=True')


@pytest.mark.long
@pytest.mark.parametrize('strategy', [
    dict(type='DDPStrategy'), dict(type='FSDPStrategy', state_dict_cfg='full')])
def test_two_ranks(strategy, config, tmp_path):
    path = config(strategy)
    run = ['tools/train.py', path, '--launcher', 'pytorch', '--work-dir',
           tmp_path / 'run']
    run_ranks(2, *run)
    saved = load_checkpoint(str(tmp_path / 'run/epoch_2.pth'))
    assert saved['meta']['iter'] == 8
    model = configs.build_model(Config.fromfile(path))
    # mmengine's DDPStrategy saves the names of its wrapper
    model.load_state_dict(fit_wrappers(saved['state_dict'], model.state_dict()))
    again = [*run, '--resume', '--cfg-options', 'train_cfg.max_epochs=3']
    if strategy['type'] == 'DDPStrategy':
        run_ranks(2, *again)
        assert (tmp_path / 'run/epoch_3.pth').exists()
    else:
        with pytest.raises(AssertionError, match='FSDPStrategy cannot restore'):
            run_ranks(2, *again)

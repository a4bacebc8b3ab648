# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import argparse
import copy
import os
import re
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from autonl_mm.runs import launch
from autonl_mm.runs.configs import check_learning_rates
from autonl_mm.runs.dataset_configs import check_data


@pytest.fixture(autouse=True)
def no_side_effects(monkeypatch):
    """A machine without a GPU; LOCAL_RANK and malloc's settings are restored."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(launch, 'keep_freed_memory', lambda: 'allocator: x')
    monkeypatch.setenv('LOCAL_RANK', '0')


def parse(*args):
    parser = argparse.ArgumentParser()
    launch.add_common_args(parser)
    return parser.parse_args(args)


# ------------------------------------------------------------------ the config
@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'toy.py'
    path.write_text('a = dict(b=1, c=[1, 2])\n')
    return str(path)


def test_load_config(config):
    cfg = launch.load_config(parse(config))
    assert cfg.a == dict(b=1, c=[1, 2])
    assert cfg.launcher == 'none'
    assert cfg.work_dir == os.path.join('work_dirs', 'toy')


def test_load_config_applies_the_options(config):
    cfg = launch.load_config(
        parse(config, '--work-dir', 'w', '--cfg-options', 'a.b=5',
              'a.c="[7,8]"', 'tta_model.e=x'))
    assert cfg.a == dict(b=5, c=[7, 8])
    assert cfg.tta_model.e == 'x'
    assert cfg.work_dir == 'w'
    cfg = launch.load_config(parse(config, '--cfg-options', 'work_dir=v'))
    assert cfg.work_dir == 'v'


def test_load_config_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.py'):
        launch.load_config(parse(str(tmp_path / 'none.py')))


@pytest.mark.parametrize('flag', ['--local_rank', '--local-rank'])
def test_rank_by_option(config, flag, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK')
    launch.load_config(parse(config, f'{flag}=3'))
    assert os.environ['LOCAL_RANK'] == '3'
    monkeypatch.setenv('LOCAL_RANK', '1')  # torchrun's value counts
    launch.load_config(parse(config, f'{flag}=3'))
    assert os.environ['LOCAL_RANK'] == '1'


def test_bad_launcher():
    with pytest.raises(SystemExit):
        parse('x.py', '--launcher', 'k8s')


# --------------------------------------------------------------------- CPU
def no_process_group(*args, **kwargs):
    raise AssertionError('no process group is needed')


def test_cpu_without_launcher(monkeypatch):
    monkeypatch.setattr(launch.dist, 'init_process_group', no_process_group)
    cfg = Config(
        dict(launcher='none', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    before = copy.deepcopy(cfg.to_dict())
    launch.prepare_cpu(cfg)
    assert cfg.to_dict() == before


def test_cpu_with_launcher(monkeypatch):
    asked = []
    monkeypatch.setattr(launch.dist, 'init_process_group',
                        lambda *args, **kwargs: asked.append((*args, kwargs)))
    cfg = Config(
        dict(
            launcher='pytorch',
            env_cfg=dict(cudnn_benchmark=True, dist_cfg=dict(backend='nccl'))))
    launch.prepare_cpu(cfg)
    cfg.env_cfg.dist_cfg.timeout = 90
    launch.prepare_cpu(cfg)
    assert asked == [('gloo', dict(timeout=None)),
                     ('gloo', dict(timeout=timedelta(seconds=90)))]
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.env_cfg.cudnn_benchmark
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=False,
        device_ids=None)


def test_cpu_under_slurm(monkeypatch, tmp_path):
    """The ranks are Slurm's, and they meet at its first node."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostname n[1-2]" ] && '
                        'printf "n1\\nn2\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    for name, value in dict(PROCID=5, NTASKS=8, LOCALID=1, NODELIST='n[1-2]').items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    for name in ('MASTER_ADDR', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '')  # what prepare_cpu() sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv('MASTER_PORT', '1234')
    found = {}
    monkeypatch.setattr(
        launch.dist, 'init_process_group',
        lambda backend, timeout: found.update(os.environ, backend=backend))
    launch.prepare_cpu(Config(dict(launcher='slurm')))
    assert {k: found[k] for k in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE',
                                  'LOCAL_RANK', 'backend')} == dict(
        MASTER_ADDR='n1', MASTER_PORT='1234', RANK='5', WORLD_SIZE='8', LOCAL_RANK='1',
        backend='gloo')


def test_cpu_keeps_the_configs_wrapper(monkeypatch):
    monkeypatch.setattr(launch.dist, 'init_process_group', no_process_group)
    cfg = Config(
        dict(
            launcher='mpi',
            find_unused_parameters=True,
            model_wrapper_cfg=dict(type='Mine', broadcast_buffers=True)))
    launch.prepare_cpu(cfg)
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == dict(
        type='Mine',
        broadcast_buffers=True,
        find_unused_parameters=True,
        device_ids=None)


def test_a_process_group_is_made_once(monkeypatch):
    monkeypatch.setattr(launch.dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(launch.dist, 'init_process_group', no_process_group)
    launch.prepare_cpu(Config(dict(launcher='pytorch')))


def test_only_cpu_machines_are_prepared(config, monkeypatch):
    calls = []
    monkeypatch.setattr(launch, 'prepare_cpu', calls.append)
    launch.load_config(parse(config))
    assert len(calls) == 1
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    launch.load_config(parse(config))
    assert len(calls) == 1


# --------------------------------------------------------------------- --amp
OPTIMIZER = dict(type='SGD', lr=0.1)


@pytest.mark.parametrize('wrapper', [
    dict(optimizer=OPTIMIZER),
    dict(type='OptimWrapper', optimizer=OPTIMIZER),
    dict(
        type='AmpOptimWrapper',
        loss_scale='dynamic',
        dtype='float16',
        optimizer=OPTIMIZER),
])
def test_amp_on_the_cpu(wrapper):
    cfg = Config(dict(optim_wrapper=dict(wrapper, accumulative_counts=2)))
    launch.use_amp(cfg)
    assert cfg.optim_wrapper == dict(
        type='autonl_mm.CpuAmpOptimWrapper',
        optimizer=OPTIMIZER,
        accumulative_counts=2)
    model = nn.Linear(4, 2)
    built = build_optim_wrapper(model, cfg.optim_wrapper)
    with built.optim_context(model):
        assert model(torch.randn(1, 4)).dtype == torch.bfloat16


def test_amp_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(optimizer=OPTIMIZER)))
    launch.use_amp(cfg)
    assert cfg.optim_wrapper == dict(
        type='AmpOptimWrapper', loss_scale='dynamic', optimizer=OPTIMIZER)
    cfg = Config(
        dict(optim_wrapper=dict(
            type='AmpOptimWrapper', dtype='bfloat16', loss_scale=8.)))
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.loss_scale == 8.
    assert cfg.optim_wrapper.dtype == 'bfloat16'


def test_amp_refuses_other_wrappers():
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    with pytest.raises(ValueError, match=r"'OptimWrapper'.*'Apex"):
        launch.use_amp(cfg)


# ------------------------------------------------------------------- --resume
def test_no_resume():
    cfg = Config(dict(work_dir='w', resume=False, load_from='x.pth'))
    launch.set_resume(cfg, None)
    assert not cfg.resume and cfg.load_from == 'x.pth'


def test_resume_from_a_file(tmp_path):
    path = tmp_path / 'a.pth'
    path.touch()
    cfg = Config(dict(work_dir='w'))
    launch.set_resume(cfg, str(path))
    assert cfg.resume is True and cfg.load_from == str(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth' does not exist"):
        launch.set_resume(cfg, str(tmp_path / 'none.pth'))


def test_resume_from_the_work_dir(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    launch.set_resume(cfg, 'auto')  # empty: from the beginning
    assert not cfg.get('resume') and not cfg.get('load_from')
    for epoch in (1, 2, 10):
        path = tmp_path / f'epoch_{epoch}.pth'
        torch.save(dict(meta=dict(epoch=epoch)), path)
    # killed while it was written
    (tmp_path / 'epoch_11.pth').write_bytes(
        (tmp_path / 'epoch_10.pth').read_bytes()[:200])
    launch.set_resume(cfg, 'auto')
    assert cfg.resume is True
    assert cfg.load_from == str(tmp_path / 'epoch_10.pth')


def test_resume_in_the_folders_of_the_run(tmp_path):
    """``last_checkpoint`` may name a file in CheckpointHook's out_dir, but no other;
    also if the config itself says that the run is resumed."""
    work_dir = tmp_path / 'run'
    for folder in (work_dir, tmp_path / 'out/run', tmp_path / 'other'):
        folder.mkdir(parents=True)
        torch.save(dict(meta=dict()), folder / 'mine.pth')
    (work_dir / 'mine.pth').unlink()
    for folder, found in (('out/run', True), ('other', False)):
        path = tmp_path / folder / 'mine.pth'
        (work_dir / 'last_checkpoint').write_text(str(path))
        for resume in ('auto', None):
            cfg = Config(dict(work_dir=str(work_dir), resume=True, default_hooks=dict(
                checkpoint=dict(out_dir=str(tmp_path / 'out')))))
            if not found:
                cfg.default_hooks.checkpoint = None
            launch.set_resume(cfg, resume)
            assert cfg.resume is found
            assert cfg.get('load_from') == (str(path) if found else None)


# ----------------------------------------------------------------- check_data
@pytest.fixture
def data(tmp_path):
    for name in 'imgs/train', 'masks':
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'ann.json').touch()
    return str(tmp_path)


def leaf(root, **kwargs):
    return dict(dict(type='X', data_root=root), **kwargs)


def check(dataset, loader='train_dataloader'):
    check_data(Config({loader: dict(dataset=dataset)}), [loader])


def wrapped(dataset, good):
    """A dataset at the second place of a concatenation in two wrappers."""
    return dict(
        type='RepeatDataset',
        dataset=dict(
            type='ClassBalancedDataset',
            dataset=dict(type='ConcatDataset', datasets=[good, dataset])))


PLACE = 'train_dataloader.dataset'
WRAPPED = PLACE + '.dataset.dataset.datasets.1'


@pytest.mark.parametrize('kwargs', [
    dict(),
    dict(ann_file='ann.json'),
    dict(ann_file='', data_prefix=''),
    dict(ann_file=None, data_prefix=None),
    dict(data_prefix='imgs/train'),
    dict(data_prefix=dict(img='imgs/train/', seg_map_path='masks')),
    dict(data_prefix=dict(img='imgs/train', other=None)),
    dict(data_prefix=dict(img='')),
    dict(ann_file='s3://bucket/ann.json'),
    dict(data_root='s3://bucket/none', ann_file='x.json'),
    dict(data_root='petrel://none'),
    dict(data_root=None),
    dict(data_root=''),
    dict(split='val', pipeline=[dict(type='LoadImageFromFile')]),
])
def test_present_data_passes(data, kwargs):
    check(leaf(data, **kwargs))
    check(wrapped(leaf(data, **kwargs), leaf(data)))


def test_absolute_paths(data):
    check(leaf('', ann_file=data + '/ann.json', data_prefix=data + '/masks'))
    check(leaf(data, ann_file=data + '/ann.json'))
    with pytest.raises(FileNotFoundError, match='ann_file'):
        check(leaf(None, ann_file=data + '/none.json'))


@pytest.mark.parametrize('kwargs,setting,path', [
    (dict(data_root='{root}/none'), 'data_root', '{root}/none'),
    (dict(data_root='{root}/none', ann_file='a.json'), 'data_root',
     '{root}/none'),
    (dict(ann_file='none.json'), 'ann_file', '{root}/none.json'),
    (dict(data_prefix='none'), 'data_prefix', '{root}/none'),
    (dict(data_prefix=dict(img='imgs', seg_map_path='none')),
     'data_prefix.seg_map_path', '{root}/none'),
])
def test_missing_data_is_named(data, kwargs, setting, path):
    kwargs = {
        k: v.format(root=data) if isinstance(v, str) else v
        for k, v in kwargs.items()
    }
    path = path.format(root=data)
    for place, dataset in ((PLACE, leaf(data, **kwargs)),
                           (WRAPPED, wrapped(leaf(data, **kwargs),
                                             leaf(data)))):
        cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
        with pytest.raises(FileNotFoundError) as info:
            check_data(cfg, ['train_dataloader'])
        message = str(info.value)
        assert message.startswith(f'{place}.{setting}: {path!r} does not')
        # the setting that the message names helps
        advised = re.search(r'--cfg-options (\S+)=PATH', message)[1]
        cfg.merge_from_dict({advised: data})
        if 'ann_file' not in kwargs or setting != 'data_root':
            check_data(cfg, ['train_dataloader'])


def test_only_the_asked_loaders_are_checked(data):
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=leaf(data)),
            val_dataloader=None,
            test_dataloader=dict(dataset=leaf(data + '/none'))))
    check_data(
        cfg, ['train_dataloader', 'val_dataloader', 'other_dataloader'])
    with pytest.raises(FileNotFoundError, match=r'^test_dataloader\.'):
        check_data(cfg, ['train_dataloader', 'test_dataloader'])


# --------------------------------------------------------------- build_runner
def test_build_runner(monkeypatch, scope):
    class Built:

        def __init__(self, kind, cfg):
            self.made, self.hooks = (kind, cfg), []

        def register_hook(self, hook):
            self.hooks.append(type(hook).__name__)

    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: Built('mmengine', cfg))
    monkeypatch.setattr(RUNNERS, 'build', lambda cfg: Built('other', cfg))
    cfg = Config(dict(work_dir='w', default_scope='mmpretrain'))
    runner = launch.build_runner(cfg)
    assert runner.made == ('mmengine', cfg)
    assert runner.hooks == ['LabelCheckHook', 'ResumeCheckHook', 'ResumeHook',
                            'SkippedImagesHook', 'StopHook']
    cfg = Config(dict(cfg, runner_type='FlexibleRunner'))
    assert launch.build_runner(cfg).made == ('other', cfg)


def test_runners_of_one_second_stand_in_their_own_scope(
        tiny_search, tmp_path, monkeypatch, scope):
    clock = SimpleNamespace(
        time=lambda: 1e9, strftime=time.strftime, localtime=time.localtime)
    monkeypatch.setattr('mmengine.runner.runner.time', clock)
    cfg = launch.load_config(argparse.Namespace(
        config=str(tiny_search), work_dir=str(tmp_path), launcher='none',
        local_rank=0, cfg_options={}))
    names = []
    for _ in range(2):
        DefaultScope.get_instance(uuid.uuid4().hex, scope_name='mmseg')
        runner = launch.build_runner(copy.deepcopy(cfg))
        names.append(runner.experiment_name)
        assert type(runner.visualizer).__module__.startswith('mmpretrain')
    assert names[0] == names[1]


def learning_rates(scheduler, **paramwise):
    return Config(dict(
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1),
            paramwise_cfg=paramwise),
        param_scheduler=[dict(type='LinearLR', end=2), scheduler]))


ONE_CYCLE = dict(type='OneCycleLR', eta_max=0.1, total_steps=10)


@pytest.mark.parametrize('paramwise, name', [
    (dict(bias_lr_mult=2.), r'paramwise_cfg\.bias_lr_mult is 2'),
    (dict(custom_keys={'0': dict(lr_mult=0.1)}), r'custom_keys\.0\.lr_mult is 0\.1'),
])
def test_a_cycle_overwrites_learning_rates(paramwise, name):
    cfg = learning_rates(ONE_CYCLE, **paramwise)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    assert len(set(wrapper.get_lr()['lr'])) == 2
    PARAM_SCHEDULERS.build(dict(ONE_CYCLE, optimizer=wrapper))
    assert len(set(wrapper.get_lr()['lr'])) == 1
    with pytest.raises(ValueError, match=f'{name}.*param_scheduler.1 is OneCycleLR'):
        check_learning_rates(cfg)
    check_learning_rates(learning_rates(
        dict(type='CosineAnnealingLR', begin=2, end=10), **paramwise))


def test_a_cycle_keeps_what_is_no_learning_rate():
    check_learning_rates(learning_rates(
        ONE_CYCLE, norm_decay_mult=0., custom_keys=dict(x=dict(lr_mult=1.))))
    check_learning_rates(Config(dict(optim_wrapper=None, param_scheduler=None)))

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Overridden settings that have no effect are refused or named."""
import copy

import pytest
from conftest import ROOT, load_tool, main_error
from mmengine.config import Config

from autonl_mm.runs.cfg_options import READ, check_options
from autonl_mm.runs.configs import enter_scope

CONFIGS = dict(cls='autonl-s_1xb32_demo-cls', det='retinanet_autonl-s_1xb8_demo-det',
               seg='semantic-fpn_autonl-s_1xb8_demo-seg')


def check(task, *keys):
    cfg = Config.fromfile(ROOT / f'configs/demo/{CONFIGS[task]}.py')
    cfg.merge_from_dict(dict(data_root='data/x', batch_size=32))
    for part in 'train', 'val':
        cfg[f'{part}_dataloader'].dataset.data_root = 'data/x'
    enter_scope(cfg)
    check_options(cfg, dict(key.split('=') if '=' in key else (key, 1)
                            for key in keys))


@pytest.mark.parametrize('key, words', [
    ('train_dataloder.batch_size', ['did you mean train_dataloader']),
    ('work_dirs', ['did you mean work_dir']),
    ('lr', ['did you mean', 'optim_wrapper.optimizer.lr']),
    ('no_such', ["nothing reads 'no_such', and the config has none", 'work_dir']),
    ('train_dataloader.batchsize', ['did you mean train_dataloader.batch_size']),
    ('train_cfg.max_epoch', ["nothing reads 'max_epoch' in train_cfg",
                             'train_cfg.max_epochs']),
    ('train_cfg.max_epoch.x', ['train_cfg.max_epochs']),
    ('val_cfg.fp61', ['val_cfg.fp16']),
    ('env_cfg.cudnn_benchmrk', ['env_cfg.cudnn_benchmark']),
    ('env_cfg.mp_cfg.opencv_threads', ['env_cfg.mp_cfg.opencv_num_threads']),
    ('auto_scale_lr.base_batchsize', ['auto_scale_lr.base_batch_size']),
    ('randomness.sed', ['randomness.seed']),
    ('default_hooks.checkpoints.interval', ['default_hooks.checkpoint']),
    ('optim_wrapper.clip_gradient.max_norm', ['optim_wrapper.clip_grad']),
    ('optim_wrapper.optimizer.weight_decy', ['optim_wrapper.optimizer.weight_decay']),
    ('optim_wrapper.paramwise_cfg.norm_decay_mlt', ['paramwise_cfg.norm_decay_mult']),
    ('optim_wrapper.optimizer.momentum', ["in optim_wrapper.optimizer"]),  # AdamW
    ('model.bakbone.arch', ['model.backbone']),
    ('model.backbone.outindices', ['model.backbone.out_indices']),
    ('model.head.loss.labelsmooth', ['nothing reads', 'in model.head.loss']),
])
def test_nothing_reads_it(key, words, scope):
    with pytest.raises(ValueError) as info:
        check('cls', key)
    assert str(info.value).startswith(f'--cfg-options {key}: nothing reads ')
    for word in words:
        assert word in str(info.value)


def test_types_among_the_options(scope):
    with pytest.raises(ValueError, match=r'did you mean .*init_cfg\.checkpoint'):
        check('cls', 'model.backbone.init_cfg.type=Pretrained',
              'model.backbone.init_cfg.chekpoint')


@pytest.mark.parametrize('task, keys', [
    ('cls', ['load_from', 'resume', 'custom_hooks.0.type', 'randomness.seed']),
    ('cls', ['model.backbone.with_cp', 'model.backbone.normalize',
             'model.backbone.norm_cfg.requires_grad', 'model.backbone._delete_',
             'model.backbone.init_cfg.type', 'model.backbone.init_cfg.prefix']),
    ('cls', ['model.backbone.type=mmpretrain.ResNet', 'model.backbone.depth',
             'model.backbone.style']),
    ('cls', ['model.backbone.type=TIMMBackbone', 'model.backbone.drop_path_rate']),
    ('cls', ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale',
             'optim_wrapper.clip_grad.max_norm', 'optim_wrapper.accumulative_counts',
             'optim_wrapper.constructor', 'optim_wrapper.optimizer.betas']),
    ('cls', ['optim_wrapper.constructor=LearningRateDecayOptimWrapperConstructor',
             'optim_wrapper.paramwise_cfg.layer_decay_rate']),
    ('cls', ['optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult']),
    ('cls', ['train_dataloader.num_workers', 'train_dataloader.prefetch_factor',
             'train_dataloader.num_batch_per_epoch', 'train_dataloader.sampler.seed',
             'train_dataloader.dataset.holdout', 'train_cfg.dynamic_intervals',
             'train_dataloader.dataset.pipeline.0.imdecode_backend']),
    ('cls', ['train_cfg.type=IterBasedTrainLoop', 'train_cfg.max_iters']),
    ('cls', ['default_hooks.compile.type=autonl_mm.CompileHook',
             'default_hooks.checkpoint.max_keep_ckpts', 'default_hooks.logger.priority',
             'param_scheduler.eta_min', 'visualizer.save_dir',
             'auto_scale_lr.base_batch_size', 'env_cfg.dist_cfg.timeout',
             'strategy.type', 'runner_type', 'model_wrapper_cfg.type',
             'find_unused_parameters', 'val_evaluator.topk', 'val_evaluator.prefix']),
    ('det', ['model.test_cfg.anything', 'model.train_cfg.assigner.pos_iou_thr',
             'model.bbox_head.loss_cls.alpha', 'model.neck.norm_cfg.type',
             'model.bbox_head.init_cfg.std', 'val_evaluator.classwise',
             'train_dataloader.dataset.filter_cfg.min_size', 'tta_model.type']),
    ('seg', ['model.decode_head.loss_decode.class_weight', 'model.auxiliary_head.type',
             'model.test_cfg.crop_size', 'train_dataloader.dataset.reduce_zero_label',
             'val_evaluator.ignore_index', 'model.decode_head.dropout_ratio']),
])
def test_new_settings_that_are_read(task, keys, scope):
    check(task, *keys)


def settings_of(place, node):
    """Places of all settings in a part of a config."""
    items = enumerate(node) if isinstance(node, list) else (
        node.items() if isinstance(node, dict) else ())
    for name, value in items:
        if isinstance(node, dict) and '.' not in name:
            yield place, name
        yield from settings_of([*place, name], value)


@pytest.mark.parametrize('task', CONFIGS)
def test_all_that_a_config_has_may_be_new(task, scope):
    """Each of its settings is accepted where the config lacks it."""
    path = ROOT / f'configs/demo/{CONFIGS[task]}.py'
    cfg = Config.fromfile(path)
    enter_scope(cfg)
    count = 0
    for place, name in settings_of([], cfg.to_dict()):
        if place and name != 'type' and place[0] in READ:
            lacking = copy.deepcopy(cfg)
            node = lacking
            for part in place:
                node = node[part]
            check_options(lacking, {'.'.join(map(str, [*place, name])): node.pop(name)})
            count += 1
    assert count > 50, count


def test_variables_of_the_config(capsys, scope):
    """Nothing reads them after loading."""
    check('cls', 'data_root=/mnt/x')
    out = capsys.readouterr().out
    assert ('--cfg-options data_root has no effect: data_root is a variable of the '
            'config file, which nothing reads after loading. Set '
            'train_dataloader.dataset.data_root and val_dataloader.dataset.data_root '
            'instead') in ' '.join(out.split())
    check('cls', 'batch_size=8')
    assert 'Set train_dataloader.batch_size instead' in ' '.join(
        capsys.readouterr().out.split())


def test_parts_of_a_variable(tmp_path, capsys, scope):
    path = tmp_path / 'config.py'
    path.write_text("pipeline = [dict(type='Resize', scale=32)]\n"
                    'train_dataloader = dict(dataset=dict(pipeline=pipeline))\n')
    check_options(Config.fromfile(path), {'pipeline.0.scale': 64})
    assert 'Set train_dataloader.dataset.pipeline.0.scale instead' in ' '.join(
        capsys.readouterr().out.split())


def test_tools_refuse_it(monkeypatch, tmp_path, scope, capsys):
    """Before anything is built or trained."""
    config = ROOT / f'configs/demo/{CONFIGS["cls"]}.py'
    for path, arguments in (('tools/train.py', ['--work-dir', tmp_path]),
                            ('tools/analysis_tools/get_flops.py', [])):
        assert 'did you mean train_dataloader,' in main_error(
            monkeypatch, load_tool(path), config, *arguments, '--cfg-options',
            'train_dataloder.batch_size=2')

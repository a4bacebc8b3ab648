# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Functions that ``tools/train.py``, ``tools/test.py`` and others share."""
import argparse
import ctypes
import os
import os.path as osp
import signal
import subprocess
import sys
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from .allocator import keep_freed_memory
from .batch import accumulated_batches
from .checkpoints import check_file, find_resumable
from .config_parts import config_parts, type_name
from .configs import add_config_args, enter_scope, read_config
from .hooks import add_run_hooks
from .packages import check_packages
from .pipelines import forward_pipelines


def add_common_args(parser: argparse.ArgumentParser) -> None:
    """Add the options of all tools that build a runner.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    add_config_args(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher')
    parser.add_argument(
        '--dist-timeout',
        type=int,
        metavar='SECONDS',
        help='end when another rank does not answer for so long; default: that of '
        'torch, half an hour over gloo')
    # torchrun passes the rank by an environment variable, the older
    # torch.distributed.launch by one of these options.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_amp_arg(parser: argparse.ArgumentParser) -> None:
    """Add ``--amp``, for training and testing.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on the CPU')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the common options.

    Args:
        args (Namespace): Arguments from a parser with :func:`add_common_args`.

    Returns:
        Config: With ``launcher`` and ``work_dir`` set, ready for the devices
        that are available.

    Raises:
        FileNotFoundError: If the config does not exist.
        ImportError: If a package that it names is missing.
        ValueError: If ``--dist-timeout`` is not positive.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args)
    check_packages(cfg)
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        die_with_parent()
        timeout = getattr(args, 'dist_timeout', None)
        if timeout is not None:
            if timeout < 1:
                raise ValueError(f'--dist-timeout is {timeout}, expected a positive '
                                 'number of seconds')
            cfg.merge_from_dict({'env_cfg.dist_cfg.timeout': timeout})
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if not torch.cuda.is_available():
        prepare_cpu(cfg)
    return cfg


def die_with_parent() -> None:
    """Let the kernel send SIGTERM when the process that started this one is gone.

    torchrun's ranks would otherwise go on, or wait for each other, without it.
    """
    if sys.platform == 'linux':
        parent = os.getppid()
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))
        if os.getppid() != parent:  # gone before
            os.kill(os.getpid(), signal.SIGTERM)


def prepare_cpu(cfg: Config) -> None:
    """Prepare a run on the CPU.

    Sets the memory allocator and, for several processes, the backend gloo, a
    model wrapper without a CUDA device, and ``BN`` in place of ``SyncBN``.

    Args:
        cfg (Config): Changed in place.
    """
    print_log(keep_freed_memory())
    if cfg.launcher == 'none':
        return
    count = replace_sync_bn(cfg.get('model')) + bool(cfg.pop('sync_bn', None))
    if count:
        print_log(f'SyncBN needs a GPU: {count} settings become '
                  'BN, which computes its statistics in each process')
    cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(backend='gloo'))))
    if cfg.launcher in ('pytorch', 'slurm') and not dist.is_initialized():
        # mmengine's init_dist would set a CUDA device first.
        if cfg.launcher == 'slurm':
            set_slurm_ranks()
        seconds = cfg.env_cfg.dist_cfg.get('timeout')
        dist.init_process_group(
            'gloo', timeout=seconds and timedelta(seconds=seconds))
    # mmengine's default wrapper names a CUDA device. With None DDP uses the
    # device of the parameters.
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    wrapper.update(cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    if type_name(dict(type=cfg.get('runner_type', ''))) == 'FlexibleRunner':
        prepare_strategy(cfg)


def prepare_strategy(cfg: Config) -> None:
    """Prepare the strategy of a FlexibleRunner for several processes on the CPU.

    Args:
        cfg (Config): Changed in place.
    """
    cfg.strategy = dict(cfg.get('strategy') or dict(type='DDPStrategy'))
    strategy, wrapper = cfg.strategy, cfg.model_wrapper_cfg
    if type_name(strategy) == 'FSDPStrategy':
        wrapper = dict(type='MMFullyShardedDataParallel', device_id='cpu')
        if strategy.get('state_dict_cfg') == 'full':
            # mmengine's offload_to_cpu lets torch 2.13 crash where all is on the CPU
            strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
                optim_state_dict_config=dict(
                    type='FullOptimStateDictConfig', rank0_only=True))
    elif type_name(strategy) != 'DDPStrategy':
        return
    strategy.model_wrapper = dict(wrapper, **(strategy.get('model_wrapper') or {}))


def set_slurm_ranks() -> None:
    """Set the variables by which torch's processes meet, from those of Slurm.

    As mmengine does for GPUs: the first node of the job is the meeting point.
    """
    nodes = subprocess.run(
        ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']],
        capture_output=True, text=True, check=True).stdout.split()
    os.environ.setdefault('MASTER_ADDR', nodes[0])
    os.environ.setdefault('MASTER_PORT', '29500')
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']


def replace_sync_bn(node: Any) -> int:
    """Turn all ``SyncBN`` in a config into ``BN``.

    Args:
        node (Any): A part of a config, changed in place.

    Returns:
        int: The number of settings that were changed.
    """
    parts = [p for _, p in config_parts('', node) if type_name(p) == 'SyncBN']
    for part in parts:
        part['type'] = 'BN'
    return len(parts)


def use_amp(cfg: Config) -> None:
    """Turn on mixed precision for training.

    Args:
        cfg (Config): Changed in place.

    Raises:
        ValueError: If the optimiser wrapper is not ``OptimWrapper`` or
            ``AmpOptimWrapper``: what another wrapper does would be lost.
    """
    wrapper = cfg.optim_wrapper
    kind = type_name(wrapper)
    if kind not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', the "
                         f'config has {kind!r}')
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    else:
        wrapper.type = 'autonl_mm.CpuAmpOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def set_resume(cfg: Config, resume: Optional[str]) -> None:
    """Apply ``--resume``.

    Args:
        cfg (Config): Changed in place. Its ``resume=True`` without ``load_from`` is
            taken for ``'auto'``.
        resume (str, optional): ``'auto'`` for the newest complete checkpoint
            in the work dir, a file, or None to start from the beginning.

    Raises:
        FileNotFoundError: If the file does not exist.
        BrokenCheckpointError: If it is damaged.
    """
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    if resume is None:
        return
    if resume == 'auto':
        hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
        resume = find_resumable(cfg.work_dir, hook.get('out_dir'))
        if resume is None:
            print_log(f'--resume: {cfg.work_dir} has no checkpoint, the run '
                      'starts from the beginning')
            cfg.resume = False  # or mmengine takes any file of last_checkpoint
            return
    elif not osp.isfile(resume):
        raise FileNotFoundError(f'--resume: {resume!r} does not exist')
    else:
        check_file(resume)
    cfg.resume = True
    cfg.load_from = resume


def _skip_trained_weights(model: torch.nn.Module) -> None:
    """Initialise no part of a model from a file: a checkpoint of the run follows, and
    the file may be gone."""
    for module in model.modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        cfgs = cfgs if isinstance(cfgs, (list, tuple)) else [cfgs]
        if any(type_name(cfg) in ('Pretrained', 'Remap') for cfg in cfgs):
            module.is_init = True


def build_runner(cfg: Config, testing: bool = False) -> Runner:
    """Build the config's runner, with the hooks of all runs.

    Args:
        cfg (Config): The config.
        testing (bool): Whether the runner evaluates a checkpoint. Defaults to False.

    Returns:
        Runner: mmengine's Runner, or the class in ``runner_type``.
    """
    # mmengine names a runner by config and second. A second runner of that name would
    # stand in whatever scope is the latest.
    enter_scope(cfg)
    forward_pipelines()
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    # what scales the learning rate, and its attribute
    scaler, name = runner, 'auto_scale_lr'
    if isinstance(runner, FlexibleRunner):
        scaler, name = runner.strategy, '_auto_scale_lr'
        # Runner has built its model by now, which checks and hooks look at
        runner.model = runner.strategy.build_model(runner.model)
    if cfg.get('resume'):
        _skip_trained_weights(runner.model)
    scaling = getattr(scaler, name, None) or {}
    if scaling.get('base_batch_size') and accumulated_batches(cfg) > 1:
        # mmengine compares the batch of an iteration with the base batch size
        setattr(scaler, name, dict(
            scaling,
            base_batch_size=scaling['base_batch_size'] / accumulated_batches(cfg)))
    add_run_hooks(runner, testing)
    return runner

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Comparison of a checkpoint with the run that resumes from it."""
from typing import Iterator, Tuple

import torch.nn as nn
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from ..batch import images_per_step
from ..checkpoints import MismatchError, fit_wrappers
from ..classes import classes_of, shorten
from ..model_wrappers import unwrap_model
from .safe_checkpoint_hook import drop_foreign_paths

KEY = 'autonl_mm'  # key of this hook's entry in a checkpoint's meta


class ResumeCheckHook(Hook):
    """Refuse to resume from a checkpoint that does not fit the run.

    A resumed run takes its schedules, counted in iterations, from the checkpoint. It
    also takes the optimiser's averages, in the order of the parameters. With another
    batch size the learning rate would be wrong. With another network the averages would
    belong to other parameters. No error would say so. The number of ranks may change if
    the number of images per step stays the same. Files that the checkpoint names are
    ignored if they do not belong to the run, see :class:`SafeCheckpointHook`.
    """

    priority = 'HIGHEST'  # before the hooks that load their part of the checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the settings of the run in the checkpoint."""
        checkpoint['meta'][KEY] = {
            name: value
            for name, (value, _) in describe_run(runner).items()
        }
        if isinstance(runner.model, FullyShardedDataParallel):
            # on a CPU they are views of its own kind of parameter
            checkpoint['state_dict'] = {
                name: value.detach().clone()
                for name, value in checkpoint['state_dict'].items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the run, before anything of it is used.

        Raises:
            MismatchError: If it does not fit; names the differences and a remedy.
        """
        if not runner._resume:
            return
        if 'epoch' not in (checkpoint.get('meta') or {}):
            raise MismatchError(
                f'resume: {runner._load_from} has weights, but not the state of a run: '
                'start a new run from them, without --resume: '
                f'--cfg-options load_from={runner._load_from}')
        if isinstance(runner.model, FullyShardedDataParallel):
            # mmengine 0.10.7 hands the optimiser's state to torch in the order of
            # arguments that torch 2.0 had
            raise MismatchError(
                "resume: mmengine's FSDPStrategy cannot restore the state of an "
                'optimiser with this torch: start a new run from the weights, without '
                f'--resume: --cfg-options load_from={runner._load_from}')
        differences = [f'{old}, this run {new}' for old, new in _compare(
            runner, checkpoint)]
        if differences:
            raise MismatchError(
                f'resume: {runner._load_from} has {"; ".join(differences)}. Use the '
                'settings of its run (the work dir has a copy of the config), '
                'or start a new run from its weights, without --resume: '
                f'--cfg-options load_from={runner._load_from}')
        drop_foreign_paths(runner, checkpoint)
        for old, new in _changed_schedules(runner, checkpoint):
            runner.logger.warning(
                f'resume: the schedules come from the checkpoint: {old} is used, and '
                f"the config's {new} has no effect")


def describe_run(runner: Runner) -> dict:
    """Settings in which a checkpoint and the run that resumes from it must agree.

    Args:
        runner (Runner): The runner; its training data are built.

    Returns:
        dict: By name, the value, which is plain data, and its meaning.
    """
    ranks = get_world_size()
    run = {}
    images = images_per_step(runner.cfg, ranks)
    if images:
        run['images_per_step'] = images, 'images per step of the optimiser'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        run['iters_per_epoch'] = (
            len(runner.train_dataloader), 'iterations per epoch')
    model = unwrap_model(runner.model)
    if hasattr(model, 'describe_for_resume'):  # such as a search
        run.update(model.describe_for_resume(runner.max_iters))
    return run


def _compare(runner: Runner, checkpoint: dict) -> Iterator[Tuple[str, str]]:
    """Differences: the value in the checkpoint, and the value in this run."""
    meta = checkpoint.get('meta') or {}
    noted = dict(meta.get(KEY) or {})
    # for a checkpoint that was saved without this hook
    epoch, iteration = meta.get('epoch') or 0, meta.get('iter') or 0
    if not noted and epoch and iteration % epoch == 0:
        noted['iters_per_epoch'] = iteration // epoch
    for name, (value, meaning) in describe_run(runner).items():
        if name in noted and noted[name] != value:
            yield f'{noted[name]} {meaning}', f'{value}'

    old = classes_of(meta.get('dataset_meta'))
    new = classes_of(getattr(runner.train_dataloader.dataset, 'metainfo', None))
    if old and new and old != new:
        yield f'{len(old)} classes {shorten(old)}', f'{len(new)} {shorten(new)}'

    # Buffers may differ, because old checkpoints lack some buffers. The optimiser's
    # averages belong to parameters. Modules such as PluginBackbone rename tensors in
    # their state dicts.
    own = {k: v.shape
           for k, v in unwrap_model(runner.model).state_dict(keep_vars=True).items()
           if isinstance(v, nn.Parameter)}
    state = fit_wrappers(checkpoint.get('state_dict') or {}, own)
    wrong = [k for k in own if k not in state or state[k].shape != own[k]]
    if wrong:
        shape = tuple(state[wrong[0]].shape) if wrong[0] in state else 'missing'
        yield (f'another network: {len(wrong)} of {len(own)} parameters differ, such '
               f'as {wrong[0]} {shape}', f'{tuple(own[wrong[0]])}')


def _changed_schedules(runner: Runner, checkpoint: dict) -> Iterator[Tuple[str, str]]:
    """Lengths of the config's schedules that the checkpoint replaces."""
    schedulers, states = runner.param_schedulers, checkpoint.get('param_schedulers')
    if not isinstance(schedulers, list) or not isinstance(states, list):
        return
    for scheduler, state in zip(schedulers, states):
        for name, value in scheduler.state_dict().items():
            old = state.get(name)
            if (name in ('begin', 'end', 'total_steps', 'T_max', 'step_size')
                    and isinstance(old, int) and old != value):
                name = f'{type(scheduler).__name__}.{name}'
                yield f'{name}={old}', f'{value}'

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Resuming from a checkpoint as if the run had not stopped."""
import os.path as osp
import re
from functools import partial
from pathlib import Path
from typing import Optional

from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..random_state import get_random_state, seed_iterations, set_random_state

KEY = 'random_states'  # in a checkpoint's meta, one for each rank


class ResumeHook(Hook):
    """Prepare a resumed run before its first iteration.

    **Evaluation.** Checkpoints are saved before they are evaluated. The checkpoint that
    the run resumes from is evaluated first if its evaluation is due. It may be the best
    checkpoint, and a kill between saving and evaluating would hide that.

    **Random numbers.** A checkpoint that :class:`StopHook` saved has the states of
    the generators of all ranks. They are restored. In the middle of an epoch the
    batches that were trained on are loaded and skipped. The resumed run then equals a
    run that never stopped, unless the dataloader has persistent workers. In an
    iteration-based loop, the random numbers of an iteration depend only on the seed and
    the index of the iteration. So this holds for any checkpoint.
    """

    priority = 'LOWEST'  # after the hooks that read the checkpoint's state

    def __init__(self):
        self.states = None
        self.interim: Optional[str] = None
        self.last_before: Optional[str] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the states of the generators from the checkpoint."""
        if runner._resume:
            self.states = (checkpoint.get('meta') or {}).get(KEY)

    def before_train(self, runner: Runner) -> None:
        """Restore the states, evaluate the checkpoint, and skip batches."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            seed_iterations(runner)
        if not runner._resume or not loop.iter:
            return
        states = self.states or ()
        if len(states) == get_world_size():
            set_random_state(states[get_rank()])
        elif states:
            runner.logger.warning(
                f'resume: saved by {len(states)} ranks, this run has '
                f'{get_world_size()}: random states are not restored')
        skip = 0
        if isinstance(loop, EpochBasedTrainLoop):
            skip = loop.iter - loop.epoch * len(loop.dataloader)
        if runner.val_loop is not None and not skip and _evaluation_is_due(runner):
            runner.logger.info('resume: the checkpoint is evaluated first')
            runner.val_loop.run()
        if skip > 0:
            runner.logger.info(
                f'resume: {skip} batches of epoch {loop.epoch + 1} are skipped')
            loop.run_epoch = partial(_end_epoch, loop, skip, get_random_state())
            self.interim = runner._load_from
            self.last_before = runner.message_hub.runtime_info.get('last_ckpt')

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove a checkpoint of the middle of an epoch after the next one is saved.

        With a checkpoint interval above 1, the next one is saved some epochs later.
        """
        last = runner.message_hub.runtime_info.get('last_ckpt') or ''
        if not self.interim or last == self.last_before or not osp.isfile(last):
            return
        interim, self.interim = osp.abspath(self.interim), None
        own = osp.dirname(interim) == osp.abspath(runner.work_dir)
        if own and interim != osp.abspath(last) and is_main_process():
            Path(interim).unlink(missing_ok=True)


def _evaluation_is_due(runner: Runner) -> bool:
    """Whether the loop evaluates at this point and the checkpoint lacks the result."""
    loop = runner.train_loop
    loop._decide_current_val_interval()
    done, end = loop.iter, loop.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        done, end = loop.epoch, loop.max_epochs
    best = str(runner.message_hub.runtime_info.get('best_ckpt', ''))
    if re.search(rf'_{done}\.pth$', best):
        return False  # saved again after its evaluation, as the best checkpoint
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)


def _end_epoch(loop: EpochBasedTrainLoop, skip: int, state: dict) -> None:
    """Run the rest of an epoch: EpochBasedTrainLoop.run_epoch from a batch on.

    Args:
        loop (EpochBasedTrainLoop): The loop.
        skip (int): Number of batches that were trained on before.
        state (dict): States of the random number generators after these batches.
    """
    del loop.run_epoch  # for one epoch only
    loop.runner.call_hook('before_train_epoch')
    loop.runner.model.train()
    batches = iter(loop.dataloader)
    for _ in range(skip):
        next(batches)
    set_random_state(state)
    for i, batch in enumerate(batches, skip):
        loop.run_iter(i, batch)
    loop.runner.call_hook('after_train_epoch')
    loop._epoch += 1

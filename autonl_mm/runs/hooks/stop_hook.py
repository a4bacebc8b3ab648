# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Stopping a run on a signal, such that it can be resumed exactly."""
import os.path as osp
import signal
import threading
from typing import Optional

import torch
import torch.distributed as torch_dist
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..atomic_files import atomic_write
from ..batch import has_stepped
from ..random_state import get_random_state
from .resume_hook import KEY

# Ctrl-C; the end of a job; Slurm's warning before it (sbatch --signal=USR1@60)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818, the run was asked to end
    """A signal ended the run.

    Args:
        number (int): The signal.
        checkpoint (str, optional): The checkpoint that was saved last.
    """

    def __init__(self, number: int, checkpoint: Optional[str]):
        self.number = number
        self.checkpoint = checkpoint
        super().__init__(f'stopped by {signal.Signals(number).name}')


class StopHook(Hook):
    """Save and end when SIGINT, SIGTERM or SIGUSR1 arrives.

    The iteration is finished, with accumulated gradients up to the step of the
    optimiser. A checkpoint is saved with the states of the random number generators,
    see :class:`ResumeHook`. A second signal ends the process at once. It is enough if
    one rank gets the signal. During an evaluation the run ends at once if the evaluated
    network was saved.

    Raises:
        Stopped: When the hook ends the run.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self):
        self.number = 0
        self.handlers = {}
        self.group = None

    def before_train(self, runner: Runner) -> None:
        """Install the handlers of the signals."""
        if torch_dist.is_initialized() and torch_dist.get_backend() != 'gloo':
            # communication with other ranks must not wait for the GPU
            self.group = torch_dist.new_group(backend='gloo')
        if threading.current_thread() is threading.main_thread():
            self.handlers = {s: signal.signal(s, self._note) for s in SIGNALS}

    def after_train(self, runner: Runner) -> None:
        """Restore the earlier handlers of the signals."""
        self._restore()

    def _note(self, number: int, frame) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _asked(self) -> int:
        """The signal that arrived at any rank, or 0."""
        if get_world_size() == 1:
            return self.number
        number = torch.tensor(self.number)
        all_reduce(number, 'max', self.group)
        return int(number)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """End between two iterations."""
        loop, done = runner.train_loop, runner.iter + 1
        self.number = self._asked()
        if not self.number or not has_stepped(runner.optim_wrapper):
            return
        if type(loop) is EpochBasedTrainLoop:
            if batch_idx + 1 < len(loop.dataloader):
                self._stop(runner, f'iter_{done}.pth', runner.epoch, done)
        elif isinstance(loop, IterBasedTrainLoop) and done < loop.max_iters:
            self._stop(runner, f'iter_{done}.pth', runner.epoch, done)

    def after_train_epoch(self, runner: Runner) -> None:
        """End between two epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and self.number:
            # The loop counts the epoch after this.
            done = runner.epoch + 1
            self._stop(runner, f'epoch_{done}.pth', done, runner.iter)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Optional[dict] = None,
                       outputs: Optional[dict] = None) -> None:
        """End in an evaluation if the evaluated network was saved."""
        last = runner.message_hub.runtime_info.get('last_ckpt') or ''
        if self.number and osp.basename(last) in (f'epoch_{runner.epoch}.pth',
                                                  f'iter_{runner.iter}.pth'):
            raise Stopped(self.number, last)

    def _stop(self, runner: Runner, name: str, epoch: int, iteration: int) -> None:
        states = all_gather_object(get_random_state(), self.group)
        runner.save_checkpoint(
            runner.work_dir,
            name,
            meta={'epoch': epoch, 'iter': iteration, KEY: states},
            by_epoch=False)
        path = osp.join(runner.work_dir, name)
        if is_main_process():
            atomic_write(osp.join(runner.work_dir, 'last_checkpoint'), path)
        self._restore()
        raise Stopped(self.number, path)

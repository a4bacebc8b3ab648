# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Warning if a training run waits for its data."""
import os
from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

MAX_SHARE = 0.2  # of the time, for waiting
INTERVAL = 1000  # iterations to add up at most
MIN_ITERATIONS = 10  # fewer iterations mostly show the start of the workers


class DataTimeHook(Hook):
    """Warn if the data loader limits the speed of a training run.

    The times come from mmengine's IterTimerHook, which is on by default: the duration
    of an iteration, and the part of it that was waiting for the batch. They are added
    up over each epoch, or over 1,000 iterations in longer epochs and in iteration-based
    loops. Waiting may take a fifth of the time. The start of the workers counts too.
    """

    priority = 'LOW'  # after IterTimerHook

    def before_train_epoch(self, runner: Runner) -> None:
        """Start new sums."""
        self.count, self.waited, self.taken = 0, 0., 0.

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Add the times of an iteration."""
        hub = runner.message_hub
        self.count += 1
        self.waited += hub.get_scalar('train/data_time').current()
        self.taken += hub.get_scalar('train/time').current()
        if self.count == INTERVAL:
            self.after_train_epoch(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Warn if the share of waiting is too large."""
        share = self.waited / max(self.taken, 1e-9)
        if self.count >= MIN_ITERATIONS and share > MAX_SHARE:
            loader = runner.train_dataloader
            settings = f'num_workers (now {loader.num_workers}; '\
                f'there are {os.cpu_count()} cores)'
            if loader.num_workers and not loader.persistent_workers:
                settings += ', persistent_workers=True'
            runner.logger.warning(
                f'The data loader limits this run: {share:.0%} of the last '
                f'{self.count} iterations\' time was waiting for data '
                f'({self.waited / self.count:.3f} of '
                # mmengine drops a warning with the same text as an earlier one
                f'{self.taken / self.count:.3f} s, up to iteration '
                f'{runner.iter}). Settings of train_dataloader that may help: '
                f'{settings}, a faster imdecode_backend. '
                'tools/benchmarks/benchmark_loader.py measures them.')
        self.before_train_epoch(runner)

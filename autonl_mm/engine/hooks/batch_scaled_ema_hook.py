# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""EMA whose time constant counts images, not iterations."""
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook
from mmengine.logging import print_log

from autonl_mm.registry import HOOKS


@HOOKS.register_module()
class BatchScaledEMAHook(EMAHook):
    """mmengine's EMAHook with its momentum fitted to the batch size.

    A decay of 0.9999 at batch 4096 averages over as many images as
    ``0.9999 ** (batch / 4096)`` does at another batch size.

    Args:
        momentum (float): Share of the new weights in the average, one minus
            the decay, at ``base_batch_size``. Defaults to 1e-4.
        base_batch_size (int): Defaults to 4096.
        update_buffers (bool): Whether BN statistics are averaged too, as
            both releases do. Defaults to True.
        **kwargs: As for :class:`mmengine.hooks.EMAHook`.
    """

    def __init__(self,
                 momentum: float = 1e-4,
                 base_batch_size: int = 4096,
                 update_buffers: bool = True,
                 **kwargs):
        super().__init__(
            momentum=momentum, update_buffers=update_buffers, **kwargs)
        self.base_batch_size = base_batch_size
        self.base_momentum = momentum

    def before_run(self, runner) -> None:
        """Fit the momentum, then build the average.

        Args:
            runner (Runner): The runner; its train dataloader's
                ``batch_size``, the number of processes and gradient
                accumulation make the batch size.
        """
        loader = runner.cfg.get('train_dataloader') or {}
        batch_size = loader.get('batch_size')
        if batch_size:
            wrapper = runner.cfg.get('optim_wrapper') or {}
            batch_size *= get_world_size() * wrapper.get(
                'accumulative_counts', 1)
            decay = (1 - self.base_momentum)**(
                batch_size / self.base_batch_size)
            self.ema_cfg['momentum'] = 1 - decay
            print_log(
                f'EMA: decay {decay:.6g} for a batch of {batch_size} '
                f'({1 - self.base_momentum:g} at {self.base_batch_size})',
                logger='current')
        super().before_run(runner)

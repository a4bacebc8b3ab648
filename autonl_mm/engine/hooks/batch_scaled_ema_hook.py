# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""EMA whose time constant is a number of images, not of iterations."""
from typing import Optional

from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook
from mmengine.logging import print_log

from autonl_mm.registry import HOOKS
from autonl_mm.runs.batch import has_stepped, images_per_step


@HOOKS.register_module()
class BatchScaledEMAHook(EMAHook):
    """mmengine's EMAHook with a momentum that depends on the batch size.

    A decay of 0.9999 at batch size 4096 averages over the same number of images
    as ``0.9999 ** (batch / 4096)`` at another batch size. The average is updated
    after each step of the optimiser. mmengine's hook updates it after every iteration,
    also between the steps of accumulated gradients.

    Args:
        momentum (float): Weight of the new parameters in the average at
            ``base_batch_size``, that is, one minus the decay. Defaults to 1e-4.
        base_batch_size (int): The batch size for ``momentum``. Defaults to 4096.
        update_buffers (bool): Whether BN statistics are averaged too, as
            in both releases. Defaults to True.
        **kwargs: Arguments of :class:`mmengine.hooks.EMAHook`.
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
        """Set the momentum, then make the averaged model.

        Args:
            runner (Runner): The runner. The batch size is the product of its
                train dataloader's ``batch_size``, the number of processes, and
                the number of accumulated batches.
        """
        batch_size = images_per_step(runner.cfg, get_world_size())
        if batch_size:
            decay = (1 - self.base_momentum)**(
                batch_size / self.base_batch_size)
            self.ema_cfg['momentum'] = 1 - decay
            print_log(
                f'EMA: decay {decay:.6g} for a batch of {batch_size} '
                f'({1 - self.base_momentum:g} at {self.base_batch_size})',
                logger='current')
        super().before_run(runner)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Update the average if the optimiser has stepped."""
        if has_stepped(runner.optim_wrapper):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

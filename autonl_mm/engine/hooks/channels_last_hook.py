# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Train with the memory layout that depthwise convolutions are fast in."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from autonl_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Turn the model's weights to channels_last before a run.

    The first convolution then gives channels_last maps, and so do all that
    follow. It changes no result but the order of summation.
    """

    def before_run(self, runner: Runner) -> None:
        """Convert the model in place."""
        runner.model.to(memory_format=torch.channels_last)

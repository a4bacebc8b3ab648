# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Training in channels_last, in which depthwise convolutions are fast."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from autonl_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Convert the model's weights to channels_last before a run.

    The first convolution then returns channels_last feature maps, and so do all
    layers after it. Results differ only by the order of summation.
    """

    def before_run(self, runner: Runner) -> None:
        """Convert the model in place."""
        runner.model.to(memory_format=torch.channels_last)

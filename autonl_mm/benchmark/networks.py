# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Classifiers whose speed is measured."""
import torch.nn as nn

from autonl_mm.arch import ArchSpec
from autonl_mm.models import AutoNL, LightNL, PoolDropout

NAMES = {'AutoNL-S': 's', 'AutoNL-L': 'l'}
WITHOUT = ' without LightNL'


class LastFeatureMap(nn.Module):
    """The last feature map of a backbone."""

    def forward(self, feature_maps):
        """``(N, C, H, W)`` of several to the last one."""
        return feature_maps[-1]


def make_classifier(arch: ArchSpec, **kwargs) -> nn.Sequential:
    """A classifier of 1000 classes with random weights.

    Args:
        arch (ArchSpec): The network.
        **kwargs: Other arguments of :class:`autonl_mm.models.AutoNL`.

    Returns:
        nn.Sequential: The network. The last BN of its LightNL layers is not zero, as
        after training.
    """
    net = nn.Sequential(
        AutoNL(arch, out_indices=(-1, ), **kwargs), LastFeatureMap(), PoolDropout(),
        nn.Linear(arch.head_channels, 1000))
    for module in net.modules():
        if isinstance(module, LightNL):
            nn.init.constant_(module.norm.weight, 0.1)
    return net

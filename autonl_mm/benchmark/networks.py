# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Classifiers whose speed is measured, by name."""
from dataclasses import replace
from pathlib import Path
from typing import Optional

import torch.nn as nn

from autonl_mm.arch import ArchSpec, resolve_arch
from autonl_mm.models import AutoNL, LightNL, PoolDropout

try:
    import timm
except ImportError:
    timm = None

NAMES = {'AutoNL-S': 's', 'AutoNL-L': 'l'}
WITHOUT = ' without LightNL'
WITHOUT_SE = ' without squeeze-excite'
HSWISH = ' with h-swish'
RELU = ' with ReLU'
ACTS = {HSWISH: 'HSwish', RELU: 'ReLU'}
NORMALIZED = {" with the paper's LightNL": 'size', ' with the bounded LightNL': 'rms'}


class AddOnly(LightNL):
    """The last step of LightNL: a feature map is added to the input."""

    def branch(self, x, weight=None):
        return x


class ConvolutionOnly(LightNL):
    """LightNL without its matrix products."""

    def branch(self, x, weight=None):
        return self.norm(self.conv(x))


REDUCED = {' with the add only': AddOnly,
           ' with convolution and add only': ConvolutionOnly}
VARIANTS = (WITHOUT, WITHOUT_SE, *ACTS, *REDUCED, *NORMALIZED)


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


def build_classifier(name: str, normalize: Optional[str] = None) -> nn.Module:
    """A classifier of 1000 classes with random weights.

    Args:
        name (str): Key or value of :data:`NAMES`, or a notation file, with or without
            one of :data:`VARIANTS` appended; or one of timm's networks.
        normalize (str, optional): As for :class:`AutoNL`, unless the variant says it.
            Defaults to None.

    Returns:
        nn.Module: The network, as :func:`make_classifier` makes it.

    Raises:
        ValueError: If there is no such network.
    """
    variant = next(filter(name.endswith, VARIANTS), '')
    plain = name.removesuffix(variant)
    if plain not in {*NAMES, *NAMES.values()} and not Path(plain).is_file():
        if timm is None or not timm.is_model(name):
            raise ValueError(
                f'--networks has {name!r}, which is neither one of ours, nor a file, '
                "nor one of timm's"
                + ', which is not installed: pip install timm' * (timm is None))
        return timm.create_model(name)
    normalize = NORMALIZED.get(variant, normalize)
    arch = resolve_arch(NAMES.get(plain, plain), normalize)
    if variant == WITHOUT:
        arch = arch.without_light_nl()
    if variant == WITHOUT_SE:
        arch = replace(arch, blocks=tuple(
            replace(block, se_ratio=0.) for block in arch.blocks))
    net = make_classifier(
        arch, act_cfg=dict(type=ACTS.get(variant, 'Swish')))
    for path, module in list(net.named_modules()):
        if isinstance(module, LightNL) and variant in REDUCED:
            parent, _, child = path.rpartition('.')
            setattr(net.get_submodule(parent), child,
                    REDUCED[variant](module.in_channels))
    return net

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Classifiers whose speed is measured."""
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Callable, Optional, Sequence, Union

import torch.nn as nn

from autonl_mm.arch import ArchSpec, resolve_arch
from autonl_mm.models import AutoNL, LightNL, MBConv, PoolDropout
from autonl_mm.models.backbones.autonl import layer_cfgs

from .comparison_blocks import AddOnly, LightNLForm

try:
    import timm
except ImportError:
    timm = None

NAMES = {'AutoNL-S': 's', 'AutoNL-L': 'l'}
# On command lines a network can have variants, NETWORK:VARIANT:VARIANT. Each variant
# stands for keywords of build_classifier.
VARIANTS = {
    'no-light-nl': dict(light_nl=None),
    'add-only': dict(light_nl=AddOnly),
    'convolution-only': dict(light_nl=partial(LightNLForm, form='conv')),
    'size': dict(normalize='size'),
    'rms': dict(normalize='rms'),
    'no-se': dict(squeeze_excite=False),
    'h-swish': dict(activation='HSwish'),
    'relu': dict(activation='ReLU'),
    'relu6': dict(activation='ReLU6'),
}
NO_LIGHT_NL = ':no-light-nl'
NETWORK_HELP = (f'{", ".join(NAMES)} or a notation file, with or without variants, '
                f'such as AutoNL-S{NO_LIGHT_NL}: {", ".join(VARIANTS)}')


def without_light_nl(name: str) -> str:
    """Name of the same network without LightNL.

    Args:
        name (str): As for :func:`network_by_name`.
    """
    plain, *variants = name.split(':')
    own = ('no-light-nl', 'add-only', 'convolution-only', 'size', 'rms')
    return ':'.join([plain, *(v for v in variants if v not in own)]) + NO_LIGHT_NL


class LastFeatureMap(nn.Module):
    """The last feature map of a backbone."""

    def forward(self, feature_maps):
        """The last of several feature maps ``(N, C, H, W)``."""
        return feature_maps[-1]


def build_classifier(arch: Union[str, PathLike, Sequence[str], ArchSpec],
                     normalize: Optional[str] = None,
                     light_nl: Optional[Callable[[int], LightNL]] = LightNL,
                     squeeze_excite: bool = True,
                     activation: Optional[str] = None) -> nn.Sequential:
    """A classifier of 1000 classes with random weights.

    Args:
        arch (str | PathLike | Sequence[str] | ArchSpec): As for
            :class:`autonl_mm.models.AutoNL`.
        normalize (str, optional): As for AutoNL. Defaults to None.
        light_nl (Callable, optional): From a number of channels to the layer in a
            LightNL's place, such as one of :mod:`autonl_mm.measure.comparison_blocks`;
            None for no layers. Defaults to LightNL.
        squeeze_excite (bool): Whether blocks keep their squeeze-excite. Defaults to
            True.
        activation (str, optional): Type of the activations. Defaults to None, the
            network's own.

    Returns:
        nn.Sequential: The network. The weight of BN in its LightNL layers is not zero,
        as after training.

    Raises:
        ValueError: As AutoNL.
    """
    cfgs = layer_cfgs(arch, act_cfg=activation and dict(type=activation))
    arch = resolve_arch(arch, normalize)
    if light_nl is None:
        arch = arch.without_light_nl()
    if not squeeze_excite:
        arch = replace(
            arch, blocks=tuple(replace(b, se_ratio=0.) for b in arch.blocks))
    backbone = AutoNL(arch, out_indices=(-1, ), **cfgs)
    for block in backbone.modules():
        if isinstance(block, MBConv) and block.light_nl is not None:
            if light_nl is not LightNL:
                block.light_nl = light_nl(block.spec.out_channels)
            nn.init.constant_(block.light_nl.norm.weight, 0.1)
    return nn.Sequential(backbone, LastFeatureMap(), PoolDropout(),
                         nn.Linear(arch.head_channels, 1000))


def network_by_name(name: str) -> nn.Module:
    """A classifier of 1000 classes with random weights, by its name on command lines.

    Args:
        name (str): Key or value of :data:`NAMES`, or a notation file, with or without
            keys of :data:`VARIANTS` after colons; or a network of timm.

    Raises:
        ValueError: If there is no such network or variant.
    """
    plain, *variants = name.split(':')
    ours = {*NAMES, *NAMES.values()}
    if plain not in ours and not Path(plain).is_file():
        if timm is None or not timm.is_model(name):
            raise ValueError(
                f'{name!r} is neither {", ".join(NAMES)}, nor a notation file, nor a '
                'network of timm'
                + ', which is not installed: pip install timm' * (timm is None))
        return timm.create_model(name)
    keywords = {}
    for variant in variants:
        if variant not in VARIANTS:
            raise ValueError(f'{name!r} has the variant {variant!r}, expected some of '
                             f'{", ".join(VARIANTS)}')
        keywords.update(VARIANTS[variant])
    return build_classifier(NAMES.get(plain, plain), **keywords)

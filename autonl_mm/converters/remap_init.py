# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Remapping as an ``init_cfg``."""
from typing import Optional

from mmengine.logging import print_log
from torch import nn

from autonl_mm.arch import ArchSpec
from autonl_mm.registry import WEIGHT_INITIALIZERS

from .donors import load_donor
from .remap import Remapped, remap


@WEIGHT_INITIALIZERS.register_module()
class Remap:
    """Initialise a backbone with the weights of another network.

    It is the ``init_cfg`` of an AutoNL or AutoNLSuperNet in any classifier, detector or
    segmentor: ``init_cfg=dict(type='autonl_mm.Remap', checkpoint='timm://mnasnet_100')``.
    Hidden channels of a supernet are sorted by importance, so that its subnets take the
    best ones. Layers without a counterpart are initialised as without it. See
    :mod:`autonl_mm.converters.remap` for the rules.

    Args:
        checkpoint (str): ``'timm://NAME'``, ``'package://tf_efficientnet_lite0'``, or
            the path of a file, see :func:`~autonl_mm.converters.load_donor`.
        donor (str, optional): The network in a file, if neither its name nor its
            tensors say it: timm's name, or the ``arch`` of an AutoNL. Defaults to None.
    """

    def __init__(self, checkpoint: str, donor: Optional[str] = None):
        self.checkpoint, self.donor = checkpoint, donor

    def __call__(self, module: nn.Module) -> None:
        raise ValueError(
            f'init_cfg of a {type(module).__name__} is a Remap, which initialises an '
            'AutoNL or AutoNLSuperNet: set it as the init_cfg of this backbone itself, '
            'not of a module around it')

    def fill(self, backbone: nn.Module, arch: ArchSpec,
             sort_channels: bool = False) -> Remapped:
        """Load the remapped weights into a backbone.

        Args:
            backbone (nn.Module): An AutoNL, of which some layers may not be built.
            arch (ArchSpec): Its network.
            sort_channels (bool): As for :func:`~autonl_mm.converters.remap.remap`.

        Raises:
            ValueError: If the backbone has no BN, or the donor does not fit, see
                :func:`~autonl_mm.converters.load_donor`.
        """
        norm = getattr(backbone.layers[0], 'bn', None)
        if norm is None:
            raise ValueError("Remap needs norm_cfg=dict(type='BN') or 'SyncBN', but "
                             'the backbone has no BN')
        donor = load_donor(self.checkpoint, self.donor)
        remapped = remap(donor, arch, norm.eps, backbone.in_channels, sort_channels)
        backbone.load_state_dict(remapped.state, strict=False)
        print_log(
            f'remapped {remapped.summary()} of {self.checkpoint}, trained on images '
            f'normalised by mean={list(donor.family.mean)} and '
            f'std={list(donor.family.std)}', 'current')
        return remapped

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of a supernet's active subnet."""
from typing import Dict, Tuple

import torch
from torch import Tensor

from autonl_mm.arch import ArchSpec
from autonl_mm.models import AutoNL

from .space import Subnet
from .superkernel import cut
from .supernet import AutoNLSuperNet


def export_subnet(supernet: AutoNLSuperNet
                  ) -> Tuple[ArchSpec, Dict[str, Tensor]]:
    """The spec of the active subnet, and its weights.

    Build an AutoNL with this spec and ``supernet.kwargs``, and load these weights. In
    eval mode it has the supernet's output.

    Args:
        supernet (AutoNLSuperNet): The supernet.

    Returns:
        tuple[ArchSpec, dict[str, Tensor]]: The spec, and the state dict of an AutoNL
        with copies of the weights.
    """
    net = build_subnet(supernet)
    return net.arch(), dict(net.state_dict())


def build_subnet(supernet: AutoNLSuperNet) -> AutoNL:
    """The active subnet with copies of its weights, in the supernet's mode.

    Args:
        supernet (AutoNLSuperNet): The supernet.
    """
    subnet = supernet.active_subnet()
    with torch.device('meta'):
        net = AutoNL(supernet.space.arch(subnet), **supernet.kwargs)
    source = supernet.state_dict()
    names = _block_names(supernet, subnet)
    state = {}
    for name, value in net.state_dict().items():
        prefix, rest = _split_block(name)
        state[name] = cut(source[names.get(prefix, prefix) + rest],
                          value.shape).detach().clone()
    net.load_state_dict(state, assign=True)
    return net.train(supernet.training)


def _split_block(name: str) -> Tuple[str, str]:
    """``layers.2.1`` and the rest of a parameter's name."""
    parts = name.split('.')
    prefix = '.'.join(parts[:3])
    return prefix, name[len(prefix):]


def _block_names(supernet: AutoNLSuperNet, subnet: Subnet) -> Dict[str, str]:
    """From a block's name in the subnet to its name in the supernet."""
    names = {}
    choices = iter(subnet)
    for i, stage in enumerate(supernet.space.stages, 1):
        kept = [j for j, block in enumerate(stage)
                if block.spec(next(choices)) is not None]
        for new, old in enumerate(kept):
            names[f'layers.{i}.{new}'] = f'layers.{i}.{old}'
    return names

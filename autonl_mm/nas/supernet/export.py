# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of a supernet's active subnet."""
from typing import Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor

from autonl_mm.arch import ArchSpec
from autonl_mm.models import AutoNL
from autonl_mm.models.backbones.autonl import layer_cfgs

from .space import Subnet
from .superkernel import cut, sync_bn_like
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
        net = sync_bn_like(
            AutoNL(supernet.space.arch(subnet), **supernet.kwargs), supernet)
    source = supernet.state_dict()
    names = _block_names(supernet, subnet)
    state = {}
    for name, value in net.state_dict().items():
        prefix, rest = _split_block(name)
        state[name] = cut(source[names.get(prefix, prefix) + rest],
                          value.shape).detach().clone()
    net.load_state_dict(state, assign=True)
    return net.train(supernet.training)


def changed_settings(cfgs: Mapping[str, Optional[dict]],
                     others: Mapping[str, Optional[dict]]) -> Dict[str, Optional[dict]]:
    """The settings of layers that the weights depend on, where others differ.

    Args:
        cfgs (Mapping[str, dict | None]): ``cfgs`` of a backbone.
        others (Mapping[str, dict | None]): As they are elsewhere.

    Returns:
        dict[str, dict | None]: Of ``conv_cfg``, ``act_cfg`` and ``se_act_cfg`` those
        that differ, and the ``norm_cfg`` of ``others`` with the eps of ``cfgs`` if that
        differs.
    """
    changed = {key: cfgs[key] for key in ('conv_cfg', 'act_cfg', 'se_act_cfg')
               if cfgs[key] != others[key]}
    eps, other = (c['norm_cfg'].get('eps', 1e-5) for c in (cfgs, others))
    if eps != other:
        changed['norm_cfg'] = dict(others['norm_cfg'], eps=eps)
    return changed


def subnet_text(arch: ArchSpec, cfgs: Mapping[str, Optional[dict]]) -> str:
    """A subnet in the notation, with comments on what the notation cannot say.

    Args:
        arch (ArchSpec): The subnet.
        cfgs (Mapping[str, dict | None]): ``cfgs`` of the supernet.
    """
    comments = ''.join(
        f'# set {key}={value!r}\n'
        for key, value in changed_settings(cfgs, layer_cfgs(arch)).items())
    return comments + arch.to_text()


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

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The deploy form: normalisation folded into the convolution before it, and
AutoNL's blocks as one operator each.
"""
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.model.utils import _BatchNormXd
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from autonl_mm.ops import load_fused_operators

# Exactly these types: subclasses may standardise the weight or do more than
# normalise.
CONVS = (nn.Conv2d, Conv2dAdaptivePadding)
# The last is what revert_sync_batchnorm makes of the two before it.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd)
# timm's, which has dropout and activation in it; timm need not be there.
NORM_ACT = 'BatchNormAct2d'


def switch_to_deploy(model: nn.Module, fused: bool = False) -> nn.Module:
    """Bring a whole model of any of the three libraries into deploy form.

    Every batch normalisation that comes directly after a convolution is
    folded into it, and modules with a ``switch_to_deploy`` of their own, such
    as RepVGG's blocks, are asked to do it. The output stays the same but for
    rounding. Doing it again changes nothing; a model that is built anew loads
    the old checkpoints, and the deployed one's state dict loads into another
    deployed model.

    Args:
        model (nn.Module): A classifier, detector, segmentor or backbone.
            Changed in place, and put into eval mode for good: what was folded
            no longer learns statistics.
        fused (bool): Whether AutoNL's blocks and LightNL become one operator
            each in inference on a CPU in float32, see :meth:`autonl_mm.models
            .MBConv.use_fused_operator` and that of LightNL. Needs a C++
            compiler the first time. Not for a model that is to be exported.
            Defaults to False.

    Returns:
        nn.Module: The model.

    Raises:
        TypeError: If the model has a supernet, which is to be exported first.
        RuntimeError: If ``fused`` does not compile; the model is unchanged.
    """
    if fused:
        load_fused_operators()
    model.eval()
    if hasattr(model, 'switch_to_deploy'):
        model.switch_to_deploy()
    else:
        fold_norms(model)
    if fused:
        for module in model.modules():
            if hasattr(module, 'use_fused_operator'):
                module.use_fused_operator()
    return model


class DeployMixin:
    """Gives a module the method of mmpretrain's re-parameterised networks."""

    def switch_to_deploy(self) -> None:
        """Fold normalisation, see :func:`autonl_mm.deploy.switch_to_deploy`."""
        self.eval()
        fold_norms(self)


def fold_norms(module: nn.Module) -> None:
    """Fold normalisation inside of a module into its convolutions.

    A convolution and the normalisation that is the next child of the same
    parent are taken to be called one after the other, as mmcv's
    ``fuse_conv_bn`` does, but for a ConvModule of another order and where a
    hook, such as that of a plug-in, sees what passes between them.

    Args:
        module (nn.Module): Changed in place; in eval mode.
    """
    conv_name, conv = None, None
    for name, child in list(module.named_children()):
        norm_act = type(child).__name__ == NORM_ACT
        if type(child) in NORMS or norm_act:
            if conv is not None and _foldable(module, conv, child):
                # A copy: heads share a convolution between levels, each with
                # a normalisation of its own.
                folded = fuse_conv_bn_eval(conv, child)
                if conv.bias is None:
                    folded.bias.requires_grad = folded.weight.requires_grad
                    folded._register_load_state_dict_pre_hook(_check_bias)
                module._modules[conv_name] = folded
                module._modules[name] = (
                    nn.Sequential(child.drop, child.act)
                    if norm_act else nn.Identity())
        elif hasattr(child, 'switch_to_deploy'):
            child.switch_to_deploy()
        else:
            fold_norms(child)
        conv_name, conv = (name, child) if type(child) in CONVS else (None, None)


def _foldable(parent: nn.Module, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a normalisation does the same inside of a convolution."""
    if isinstance(parent, ConvModule):
        order = parent.order
        if order.index('norm') != order.index('conv') + 1:
            return False
    between = (conv._forward_hooks, norm._forward_pre_hooks,
               norm._forward_hooks, conv._forward_pre_hooks)
    return (norm.running_var is not None
            and norm.num_features == conv.out_channels
            and not any(between))


def _check_bias(state_dict: dict, prefix: str, *args) -> None:
    """Load hook: refuse what was saved before, whose norm would be lost."""
    if f'{prefix}weight' in state_dict and f'{prefix}bias' not in state_dict:
        raise RuntimeError(
            f'{prefix}weight comes from a network that is not in deploy form, '
            'and the normalisation after it was folded away here: load the '
            'checkpoint first, then call switch_to_deploy()')

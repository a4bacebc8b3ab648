# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The deploy form of a model, for faster inference.

Normalisation is folded into the convolution before it, and each of AutoNL's
blocks can become one operator.
"""
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.model.utils import _BatchNormXd
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from autonl_mm.ops import load_fused_operators

# Not subclasses: they may standardise the weight or do more than normalise.
CONVS = (nn.Conv2d, Conv2dAdaptivePadding)
# revert_sync_batchnorm turns the first two types into the last type.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd)
# timm's, with dropout and activation in it. By name, as timm may be missing.
NORM_ACT = 'BatchNormAct2d'


def switch_to_deploy(model: nn.Module, fused: bool = False) -> nn.Module:
    """Bring a model of mmpretrain, mmdet or mmseg into deploy form.

    Every batch normalisation that comes directly after a convolution is
    folded into it. Modules with their own ``switch_to_deploy``, such as
    RepVGG's blocks, use that method. The output stays the same except for
    rounding. Calling this again changes nothing.

    Load checkpoints of training before the call: a model in deploy form only
    loads the state dict of another model in deploy form.

    Args:
        model (nn.Module): A classifier, detector, segmentor or backbone.
            Changed in place. It must stay in eval mode, because folded
            normalisation no longer updates its statistics.
        fused (bool): Whether each of AutoNL's blocks and LightNL becomes one
            operator, for inference on a CPU in float32, see
            :meth:`autonl_mm.models.MBConv.use_fused_operator` and the method
            of LightNL. Needs a C++ compiler the first time. Not for a model
            that will be exported. Defaults to False.

    Returns:
        nn.Module: The model.

    Raises:
        TypeError: If the model has a supernet: export its network first.
        RuntimeError: If the operators of ``fused`` do not compile; the model
            is then unchanged.
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
    """Adds the method ``switch_to_deploy``, as in mmpretrain's RepVGG."""

    def switch_to_deploy(self) -> None:
        """Fold normalisation, see :func:`switch_to_deploy`."""
        self.eval()
        fold_norms(self)


def fold_norms(module: nn.Module) -> None:
    """Fold the normalisation in a module into its convolutions.

    A normalisation is folded if it is the next child after a convolution in the
    same parent, as in mmcv's ``fuse_conv_bn``. Exceptions are a ConvModule with
    another order, and modules with a hook (such as a plug-in's hook), which
    would see other values.

    Args:
        module (nn.Module): Changed in place; in eval mode.
    """
    conv_name, conv = None, None
    for name, child in list(module.named_children()):
        norm_act = type(child).__name__ == NORM_ACT
        if type(child) in NORMS or norm_act:
            if conv is not None and _foldable(module, conv, child):
                # A copy, because heads share a convolution between levels that
                # each have their own normalisation.
                folded = fuse_conv_bn_eval(conv, child)
                if conv.bias is None:
                    folded.bias.requires_grad = folded.weight.requires_grad
                module._modules[conv_name] = folded
                rest = (nn.Sequential(child.drop, child.act)
                        if norm_act else nn.Identity())
                rest._register_load_state_dict_pre_hook(_check_folded)
                module._modules[name] = rest
        elif hasattr(child, 'switch_to_deploy'):
            child.switch_to_deploy()
        else:
            fold_norms(child)
        conv_name, conv = (name, child) if type(child) in CONVS else (None, None)


def _foldable(parent: nn.Module, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a normalisation can be folded into a convolution."""
    if isinstance(parent, ConvModule):
        order = parent.order
        if order.index('norm') != order.index('conv') + 1:
            return False
    between = (conv._forward_hooks, norm._forward_pre_hooks,
               norm._forward_hooks, conv._forward_pre_hooks)
    return (norm.running_var is not None
            and norm.num_features == conv.out_channels
            and not any(between))


def _check_folded(state_dict: dict, prefix: str, *args) -> None:
    """Load hook: refuse weights that are not folded; their norm would be lost."""
    if f'{prefix}running_var' in state_dict:
        raise RuntimeError(
            f'{prefix}running_var comes from a network that is not in deploy form, '
            'but this model has its normalisation folded: load the '
            'checkpoint first, then call switch_to_deploy()')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The inverted residual block of AutoNL and MnasNet."""
from functools import partial
from typing import Optional

import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor

from autonl_mm.arch import BlockSpec
from autonl_mm.fold import DeployMixin
from autonl_mm.ops import fused_mbconv, load_fused_operators, pack_weights, runs_fused
from autonl_mm.runs.config_parts import type_name

from .depthwise import depthwise_conv2d, has_slow_gradient, is_plain
from .light_nl import LightNL, init_depthwise

# Activations that the fused operator supports, and its names for them.
ACTIVATIONS = {nn.SiLU: 'silu', nn.Hardswish: 'hardswish', nn.ReLU: 'relu',
               nn.ReLU6: 'relu6'}


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def fused_act_cfg(act_cfg: Optional[dict]) -> Optional[dict]:
    """Replace mmcv's Swish by torch's SiLU, the same function in one pass."""
    if act_cfg and type_name(act_cfg) == 'Swish':
        return dict(type='SiLU')
    return act_cfg


class SqueezeExcite(BaseModule):
    """Squeeze-excite: ``x * sigmoid(expand(act(reduce(mean(x)))))``.

    Args:
        channels (int): C, channels in and out.
        hidden_channels (int): Hidden units.
        act_cfg (dict): Inner activation.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    def __init__(self, channels: int, hidden_channels: int, act_cfg: dict):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden_channels, 1)
        self.act = build_activation_layer(act_cfg)
        self.expand = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H, W)``."""
        scale = self.expand(self.act(self.reduce(self.pool(x))))
        return x * scale.sigmoid()


class MBConv(DeployMixin, BaseModule):
    """Inverted residual block that a :class:`BlockSpec` describes.

    Its layers are 1x1 expand, depthwise, squeeze-excite, 1x1 project, LightNL and
    identity add, as far as the spec has them. LightNL is after the project
    convolution's BN and before the add.

    Args:
        spec (BlockSpec): The block.
        stride (int, optional): Stride to use instead of the spec's, where
            dilation replaces stride. Defaults to None.
        dilation (int): Dilation of the depthwise convolution. Defaults to 1.
        nl_dilation (int): Dilation of LightNL's depthwise convolution, which
            operates on the block's output. Defaults to 1.
        conv_cfg (dict, optional): Convolution type. Defaults to None.
        norm_cfg (dict): Normalisation. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='Swish')``.
        se_act_cfg (dict, optional): Inner activation of squeeze-excite. Defaults to
            None, ``act_cfg``.
        with_cp (bool): Whether to recompute activations in the backward pass
            to save memory. Defaults to False.

    Shape:
        ``(N, C_in, H, W)`` in, ``(N, C_out, ceil(H/stride), ceil(W/stride))``
        out.
    """

    def __init__(self,
                 spec: BlockSpec,
                 stride: Optional[int] = None,
                 dilation: int = 1,
                 nl_dilation: int = 1,
                 conv_cfg: Optional[dict] = None,
                 norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict = dict(type='Swish'),
                 se_act_cfg: Optional[dict] = None,
                 with_cp: bool = False):
        super().__init__()
        self.spec = spec
        self.with_cp = with_cp
        act_cfg = fused_act_cfg(act_cfg)
        cfg = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        mid_channels = spec.mid_channels

        self.expand = None
        if spec.with_expand:
            self.expand = ConvModule(
                spec.in_channels, mid_channels, 1, act_cfg=act_cfg, **cfg)
        else:
            mid_channels = spec.in_channels
        self.depthwise = ConvModule(
            mid_channels,
            mid_channels,
            spec.kernel_size,
            stride=spec.stride if stride is None else stride,
            padding=dilation * (spec.kernel_size // 2),
            dilation=dilation,
            groups=mid_channels,
            act_cfg=act_cfg,
            **cfg)
        self.se = None
        if spec.se_channels:
            self.se = SqueezeExcite(
                mid_channels, spec.se_channels, fused_act_cfg(se_act_cfg or act_cfg))
        self.project = ConvModule(
            mid_channels, spec.out_channels, 1, act_cfg=None, **cfg)
        self.light_nl = None
        if spec.nl_ratio:
            self.light_nl = LightNL(
                spec.out_channels,
                spec.nl_ratio,
                spec.nl_stride,
                normalize=spec.normalize,
                norm_cfg=norm_cfg,
                dilation=nl_dilation)
        self.fused = None

    def init_weights(self) -> None:
        """Initialise by the parents' rules, except for the depthwise
        convolution."""
        super().init_weights()
        init_depthwise(self.depthwise.conv)

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        if self.fused is not None:
            self.use_fused_operator()  # the memory layout may have changed
        return self

    def use_fused_operator(self) -> None:
        """Compute the block with the fused operator where possible.

        The operator needs float32 on a CPU, no gradients (``torch.no_grad()``), folded
        normalisation, activations of :data:`ACTIVATIONS`, and numbers of channels that
        are multiples of 8. All other calls are computed as before. A block with a hook
        on one of its layers is not fused. A hook that is added later is not called.

        Raises:
            RuntimeError: If the operator does not compile.
        """
        load_fused_operators()
        self.fused = None
        if self.light_nl is not None:
            self.light_nl.use_fused_operator()
        if not self._can_be_fused():
            return
        expand = None if self.expand is None else self.expand.conv
        reduce = None if self.se is None else self.se.reduce
        gate = None if self.se is None else self.se.expand
        depthwise, project = self.depthwise.conv, self.project.conv
        pack_weights(expand, depthwise, gate, project)
        # Built once: looking the layers up takes as long as a small block.
        self.fused = partial(
            fused_mbconv,
            expand=expand,
            depthwise=depthwise,
            reduce=reduce,
            gate=gate,
            project=project,
            activation=ACTIVATIONS[type(self.depthwise.activate)],
            se_activation=None if self.se is None else ACTIVATIONS[type(self.se.act)],
            identity=self.spec.with_identity and not self._light_nl_is_separate(),
            light_nl=None if self._light_nl_is_separate() else self.light_nl)

    def _can_be_fused(self) -> bool:
        layers = [layer for layer in (self.expand, self.depthwise, self.project)
                  if layer is not None]
        widths = (self.spec.in_channels, self.spec.out_channels,
                  self.depthwise.out_channels)
        # A subclass may compute something else.
        return (type(self) is MBConv and not any(c % 8 for c in widths)
                and self.depthwise.with_activation
                and type(self.depthwise.activate) in ACTIVATIONS
                and (self.se is None or type(self.se.act) in ACTIVATIONS)
                and all(is_plain(layer.conv)
                        and layer.conv.bias is not None
                        and (not layer.with_norm
                             or isinstance(layer.norm, nn.Identity))
                        for layer in layers)
                and not any(_has_hooks(m) for m in self.modules() if m is not self))

    def _light_nl_is_separate(self) -> bool:
        """Whether LightNL, and so the identity add, is not in the operator."""
        return self.light_nl is not None and not self.light_nl.fused

    def _filter(self, x: Tensor) -> Tensor:
        layer = self.depthwise
        if (has_slow_gradient(x, layer.conv) and layer.with_norm
                and layer.with_activation and not _has_hooks(layer)):
            return layer.activate(layer.norm(depthwise_conv2d(x, layer.conv)))
        return layer(x)

    def _inner_forward(self, x: Tensor) -> Tensor:
        residual = x if self.spec.with_identity else None
        if self.fused is not None and runs_fused(x):
            out = self.fused(x)
            if self._light_nl_is_separate():
                return self.light_nl(out, residual=residual)
            return out
        out = x
        if self.expand is not None:
            out = self.expand(out)
        out = self._filter(out)
        if self.se is not None:
            out = self.se(out)
        out = self.project(out)
        if self.light_nl is not None:
            return self.light_nl(out, residual=residual)
        return out if residual is None else residual + out

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._inner_forward, x, use_reentrant=False)
        return self._inner_forward(x)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""LightNL, the lightweight non-local block (AutoNL, section 3.1).

Symbols in shapes: N images, C channels, H x W the size of the feature map,
k compact channels, s the stride, h x w = ceil(H/s) x ceil(W/s) the size of the
strided feature map.
"""
from typing import List, Optional

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

from autonl_mm.arch import NORMALIZE, check_normalize
from autonl_mm.cost import light_nl_order
from autonl_mm.fold import DeployMixin
from autonl_mm.ops import fused_light_nl, load_fused_operators, pack_weights, runs_fused
from autonl_mm.registry import MODELS

from .depthwise import depthwise_conv2d, is_plain
from .export_and_precision import (
    at_least_float32,
    is_for_xnnpack,
    keep_float32,
    largest,
    root,
    subsample,
    without_autocast,
    without_view,
    xnnpack_light_nl,
)

ORDERS = ('auto', 'channel', 'spatial')
# State entry of layers with normalize='rms'. Layers with 'size' have no entry, like the
# authors' checkpoints.
RMS_MARK = 'scaled_by_rms'


def light_nl_reference(x: Tensor,
                       nl_channels: int,
                       stride: int = 1,
                       normalize: str = 'rms') -> Tensor:
    r"""The compact non-local operation as the paper writes it, slow but short.

    .. math::
        y_{c,p} = \frac{1}{HW} \sum_q \left(\sum_{i<k} x_{i,p} x^s_{i,q}\right)
                  x^s_{c,q}

    with :math:`x^s` every ``stride``-th row and column of ``x``. :func:`light_nl`
    computes the same in the cheaper order of the products, and :class:`LightNL` is
    :math:`z = x + BN(DWConv_{3 \times 3}(y))`.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        nl_channels (int): k.
        stride (int): s. Defaults to 1.
        normalize (str): ``'size'``, as the paper, or ``'rms'``, which divides each
            image's y by its root mean square over all channels and the sampled
            positions instead. Defaults to ``'rms'``.

    Returns:
        Tensor: y, ``(N, C, H, W)``.
    """
    x_s = x[:, :, ::stride, ::stride]
    x_c, x_sc = x[:, :nl_channels], x_s[:, :nl_channels]
    # p is (h, w), q is (a, b)
    y = torch.einsum('niab,ncab,nihw->nchw', x_sc, x_s, x_c)
    if normalize == 'size':
        return y / (x.shape[2] * x.shape[3])
    rms = y[:, :, ::stride, ::stride].square().mean((1, 2, 3), keepdim=True).sqrt()
    return y / torch.where(rms > 0, rms, 1)  # a y of zeros stays zero


def light_nl(x: Tensor,
             nl_channels: int,
             stride: int = 1,
             order: str = 'auto',
             weight: Optional[Tensor] = None,
             normalize: str = 'rms') -> Tensor:
    r"""The compact non-local operation, ``y = x_c x_sc^T x_s``, normalised.

    :func:`light_nl_reference` has the formula. With ``normalize='size'`` the divisor
    is HW, the size of the full feature map, for any stride, as in the paper's equation
    and its TensorFlow release; in the PyTorch release it is 1 for square feature maps.

    This grows with the cube of ``x``. With ``normalize='rms'``, a deviation from
    the paper, each image's product is divided by its root mean square over all
    channels and the sampled positions instead, so that it has the same size for
    every image: multiplying ``x`` by a number does not change ``y``. Where
    the product is zero, so is ``y``, and so are its gradients. In float32 all this
    holds for features from 1e-17 to 1e14. At stride 1 the sampled positions are all
    positions, and the root mean square of ``y`` is 1. With a larger stride, a position
    that is not sampled and far larger than the sampled ones has a far larger ``y``.

    In the channel order the root mean square comes from small matrices: with the
    context ``M = x_sc^T x_s`` and the Gram matrix ``G`` of the compact channels, its
    first k columns, the sum of squares is ``tr(M^T G M)``. It has the sixth power of
    ``x``, so the matrices are divided by their largest value first, as the affinity is
    in the other order.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        nl_channels (int): k; the affinity is computed from the first k
            channels.
        stride (int): s. Defaults to 1.
        order (str): ``'channel'`` forms the C x k context matrix, MACs
            ``(hw + HW) * k * C``, and ``k * k * C`` more for the root mean
            square; ``'spatial'`` the HW x hw affinity, MACs
            ``HW * hw * (k + C)``; ``'auto'`` uses the cheaper order. Defaults to
            ``'auto'``.
        weight (Tensor, optional): ``(k, hw)``, or 1 for either, factors of the
            affinity's terms, one per channel and sampled position. A search
            uses them to select channels and strides in a differentiable way.
            The first channel's factors are the weights of the positions in the
            root mean square; every subnet has the first channel. Defaults to
            None.
        normalize (str): ``'rms'`` or ``'size'``. Defaults to ``'rms'``.

    Returns:
        Tensor: ``(N, C, H, W)``, with the dtype of ``x``.
    """
    c, h, w = x.shape[1:]
    if is_for_xnnpack():
        return xnnpack_light_nl(x, nl_channels, stride, order, normalize)
    x_s = x_p = _rows(x)  # (N, HW, C)
    if stride > 1:
        x_s = _rows(subsample(x, stride))  # (N, hw, C)
    x_c, x_sc = x_p[..., :nl_channels], x_s[..., :nl_channels]
    count, shares, terms = x_s.shape[1], None, x_sc
    if weight is not None:
        terms = x_sc * weight.t()
        shares = weight[:1].t().expand(count, 1)  # of the positions
    terms = terms.transpose(1, 2)  # (N, k, hw)
    if order == 'auto':
        order = light_nl_order(c, nl_channels, h * w, count, normalize)
    if order == 'channel':
        context = torch.bmm(terms, x_s)  # (N, k, C)
        # Dividing the small matrix saves a pass over the feature map.
        if normalize == 'size':
            context = context / (h * w)
        else:
            scale = largest(context)
            context = context / scale
            gram = context[..., :nl_channels]
            if shares is not None:
                gram = torch.bmm((x_sc * shares).transpose(1, 2), x_sc) / scale
                count = shares.sum()
            trace = (torch.bmm(gram, context) * context).sum((1, 2), keepdim=True)
            context = context / root(trace * (scale / (count * c)))
        y = torch.bmm(x_c, context)
    else:
        affinity = torch.bmm(x_c, terms)  # (N, HW, hw)
        affinity = affinity / (h * w if normalize == 'size' else largest(affinity))
        y = torch.bmm(affinity, x_s)
        if normalize == 'rms':
            # This order is the cheaper one where y is smaller than the context.
            sampled = y
            if stride > 1:
                sampled = _rows(subsample(_feature_map(y, h, w), stride))
            squares = sampled.square()
            if shares is not None:
                squares, count = squares * shares, shares.sum()
            y = y / root(squares.sum((1, 2), keepdim=True) / (count * c))
    return without_view(_feature_map(y, h, w))


def _rows(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, HW, C)``, one row per position.

    For an ``x`` in channels_last this is a view.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _feature_map(rows: Tensor, h: int, w: int) -> Tensor:
    """The inverse of :func:`_rows`, in channels_last.

    The depthwise convolution is fastest in this layout.
    """
    return rows.view(rows.shape[0], h, w, rows.shape[2]).permute(0, 3, 1, 2)


def affinity_rows(x: Tensor,
                  nl_channels: int,
                  stride: int,
                  positions: Tensor,
                  normalize: str = 'rms') -> Tensor:
    """Compute some rows of the affinity of :func:`light_nl`.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        nl_channels (int): k; the affinity is computed from the first k
            channels.
        stride (int): s.
        positions (Tensor): Row and column of P positions of the feature map,
            ``(P, 2)``, integers.
        normalize (str): ``'rms'`` or ``'size'``. Defaults to ``'rms'``.

    Returns:
        Tensor: ``(N, P, h, w)``, the weight of each sampled position in the
        output at each of the P positions. The divisor, HW or the root mean
        square, is included.
    """
    if normalize == 'rms':
        size = largest(x)  # the cubic product would leave float32's range
        x = x / size
    sampled = x[:, :nl_channels, ::stride, ::stride]
    queries = x[:, :nl_channels, positions[:, 0], positions[:, 1]]
    rows = torch.einsum('nip,niab->npab', queries, sampled) / x[0, 0].numel()
    if normalize == 'rms':
        y = light_nl(x, nl_channels, stride, normalize='size')
        scale = largest(y)
        sampled = y[:, :, ::stride, ::stride] / scale
        rows = rows / scale / root(sampled.square().mean((1, 2, 3), keepdim=True))
        rows = rows / size
    return rows


@MODELS.register_module()
class LightNL(DeployMixin, BaseModule):
    """Plug-in layer ``z = x + BN(DWConv3x3(light_nl(x)))``.

    BN's weight starts at zero, so a new block is the identity.

    Weights are trained for one ``normalize``. The state dict of a layer with ``'rms'``
    has an entry ``scaled_by_rms``. A layer refuses weights for another ``normalize``.

    Args:
        in_channels (int): C, channels in and out.
        channel_ratio (float): r; the affinity is computed from the first
            ``int(r * C)`` channels. Defaults to 0.25.
        stride (int): s, spatial stride of the compact features. Defaults to 1.
        order (str): Order of the products, see :func:`light_nl`. Defaults to
            ``'auto'``.
        normalize (str): Divisor of the product: ``'rms'``, its root mean square, or
            ``'size'``, the size of the feature map, as in the paper; see
            :func:`light_nl`. Defaults to ``'rms'``.
        norm_cfg (dict, optional): Normalisation; None for no normalisation. Defaults
            to ``dict(type='BN')``.
        zero_init (bool): Whether the block starts as the identity: the BN
            weight or, without normalisation, the kernel is zero. This holds
            even if a surrounding model's ``init_cfg`` has another rule for
            normalisation layers. Defaults to True.
        dilation (int): Dilation of the depthwise convolution, for backbones
            in which dilation replaces stride. Defaults to 1.
        init_cfg (dict, optional): Initialisation instead of the paper's.
            Defaults to None.

    Raises:
        ValueError: If a value is out of range; names it.

    Shape:
        ``(N, C, H, W)`` in, the same out, with the dtype of the input. For
        float16 and bfloat16 inputs the products are computed in float32. With
        ``normalize='size'`` the rest of the branch is computed in float32 too: its
        values grow with the cube of ``x``, so that activations of 1e3 give values
        of 1e9. For the same reason ``model.half()`` leaves the few parameters and
        the statistics of the normalisation in float32. With ``'rms'`` the branch's
        values do not depend on the size of ``x``, and convolution, normalisation and
        parameters are in half precision like other layers.
    """

    _abbr_ = 'light_nl'

    def __init__(self,
                 in_channels: int,
                 channel_ratio: float = 0.25,
                 stride: int = 1,
                 order: str = 'auto',
                 normalize: str = 'rms',
                 norm_cfg: Optional[dict] = dict(type='BN'),
                 zero_init: bool = True,
                 dilation: int = 1,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg=init_cfg)
        if not 0 < channel_ratio <= 1:
            raise ValueError(f'channel_ratio of LightNL is {channel_ratio}, '
                             'expected a ratio in (0, 1]')
        self.nl_channels = int(in_channels * channel_ratio)
        if self.nl_channels < 1:
            raise ValueError(
                f'channel_ratio {channel_ratio} of {in_channels} channels '
                'leaves LightNL no channel, expected at least '
                f'{1 / in_channels:.4g}')
        for name, value in (('stride', stride), ('dilation', dilation)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} of LightNL is {value!r}, expected a positive '
                                 'integer')
        if order not in ORDERS:
            raise ValueError(f'order of LightNL is {order!r}, expected one of '
                             f'{ORDERS}')
        check_normalize(normalize)
        self.in_channels = in_channels
        self.channel_ratio = channel_ratio
        self.stride = stride
        self.order = order
        self.normalize = normalize
        self.zero_init = zero_init
        self.fused = False
        self.conv = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False)
        self.norm = (
            build_norm_layer(norm_cfg, in_channels)[1]
            if norm_cfg else nn.Identity())
        if norm_cfg and getattr(self.norm, 'weight', None) is None:
            raise ValueError(f'norm_cfg of LightNL is {norm_cfg}, expected a '
                             'normalisation with a weight (affine=True)')
        if normalize == 'rms':
            self.register_buffer(RMS_MARK, torch.tensor(1))
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        init_depthwise(self.conv)
        if isinstance(self.norm, nn.Identity):
            if self.zero_init:
                nn.init.zeros_(self.conv.weight)
        else:
            nn.init.constant_(self.norm.weight, 0 if self.zero_init else 1)
            nn.init.zeros_(self.norm.bias)

    def init_weights(self) -> None:
        """Restore the initial values, whatever rule a parent module applied
        to normalisation layers, then apply ``init_cfg``."""
        self._reset_parameters()
        super().init_weights()

    def _apply(self, fn, *args, **kwargs):
        # .half(), .to() and similar methods call this.
        if self.normalize == 'size':
            fn = keep_float32(fn)
        super()._apply(fn, *args, **kwargs)
        if self.fused:
            pack_weights(self.conv)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Raised rather than reported: mmengine only logs reported errors.
        if f'{prefix}conv.weight' in state_dict:
            found = 'rms' if prefix + RMS_MARK in state_dict else 'size'
            if found != self.normalize:
                raise RuntimeError(
                    f'{prefix}conv.weight was trained with normalize={found!r}, but '
                    f'this LightNL has normalize={self.normalize!r}: build the '
                    f'network with normalize={found!r}')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def use_fused_operator(self) -> None:
        """Compute the block with the fused operator where possible.

        The operator needs float32 on a CPU, no gradients (``torch.no_grad()``), and
        folded normalisation. All other calls are computed as before.

        Raises:
            RuntimeError: If the operator does not compile.
        """
        load_fused_operators()
        # A subclass may compute something else.
        self.fused = (type(self) is LightNL and is_plain(self.conv)
                      and self.conv.bias is not None
                      and isinstance(self.norm, nn.Identity))
        if self.fused:
            pack_weights(self.conv)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H, W)``.

        Args:
            x (Tensor): Features.
            residual (Tensor, optional): Added to the result, same shape. The
                fused operator adds it in the same pass. Defaults to None.
        """
        if self.fused and runs_fused(x):
            return fused_light_nl(x, self.conv.weight, self.conv.bias,
                                  self.nl_channels, self.stride, self.order,
                                  self.conv.dilation[0], residual, self.normalize)
        out = x + self.branch(x)
        return out if residual is None else residual + out

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        """Compute the branch that the block adds to ``x``, ``(N, C, H, W)``.

        Args:
            x (Tensor): Features, ``(N, C, H, W)``.
            weight (Tensor, optional): As for :func:`light_nl`. Defaults to
                None.
        """
        with without_autocast(x):
            y = light_nl(at_least_float32(x), self.nl_channels, self.stride,
                         self.order, weight, self.normalize)
            if self.normalize == 'size':
                return self._convolve(y).to(x.dtype)
        return self._convolve(y).to(x.dtype)

    def _convolve(self, y: Tensor) -> Tensor:
        y = depthwise_conv2d(y.to(self.conv.weight.dtype), self.conv)
        return self.norm(y)

    def extra_repr(self) -> str:
        return (f'{self.in_channels}, nl_channels={self.nl_channels}, '
                f'stride={self.stride}, order={self.order!r}, '
                f'normalize={self.normalize!r}')


def light_nl_scales(module: nn.Module) -> List[str]:
    """The normalisations of the LightNLs in a network, as exported models name them.

    Args:
        module (nn.Module): The network.

    Returns:
        list[str]: ``'paper'`` for ``normalize='size'``, ``'rms'``, or none.
    """
    return sorted({NORMALIZE[m.normalize] for m in module.modules()
                   if isinstance(m, LightNL)})


def init_depthwise(conv: nn.Conv2d) -> None:
    """Normal initialisation with fan-out ``k * k``, as in both releases.

    In a depthwise convolution each output channel has one input channel, but
    torch's ``fan_out`` multiplies by the number of channels C nevertheless,
    which would make the weights smaller by a factor of ``sqrt(C)``.
    """
    nn.init.kaiming_normal_(conv.weight, mode='fan_in', nonlinearity='relu')
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)

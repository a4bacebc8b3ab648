# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""One block that contains every block of its space.

It has the weights of the largest block. A smaller block has slices of these weights:
the core of the depthwise kernel, the first hidden channels, the first hidden units of
squeeze-excite (Single-Path NAS, arXiv 1904.02877). So all choices together cost as
much as the largest block, for LightNL by feature reuse (section 3.2 of the paper).

The block computes exactly the block that its gates choose. With the paper's formulas
it would not in two cases, so the gates act elsewhere:

- A zeroed kernel does not remove the shift of the BN after it. Hidden channels are cut
  off after BN and activation, where squeeze-excite and the project convolution read
  them. LightNL and the whole block are cut off after their last BN.
- Squeeze-excite without hidden units would multiply by sigmoid(0). When it is off, its
  factor is 1.
"""
from typing import Dict, Optional, Sequence, Set, Tuple

import torch
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from torch import Tensor, nn
from torch.func import functional_call

from autonl_mm.arch import BlockSpec
from autonl_mm.models import MBConv
from autonl_mm.models.layers import depthwise_conv2d

from .gates import MEASURED
from .space import DECISIONS, BlockSpace


def part_sizes(widths: Sequence[int]) -> Tuple[int, ...]:
    """Units that each of the rising widths has beyond the width before."""
    return tuple(b - a for a, b in zip((0, *widths), widths))


def part_energies(energy: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over each part except the first part, which has no gate.

    Args:
        energy (Tensor): ``(sum(sizes), )``, one number per unit.
        sizes (Sequence[int]): Units of each part.
    """
    return torch.stack([part.sum() for part in energy.split(sizes)[1:]])


def unit_weights(gates: Optional[Tensor],
                 sizes: Sequence[int]) -> Optional[Tensor]:
    """The weight of each unit, ``(sum(sizes), )``; None if all weights are 1.

    Args:
        gates (Tensor, optional): ``(len(sizes) - 1, )``, gates of the parts
            after the first.
        sizes (Sequence[int]): Units of each part.
    """
    if gates is None or not len(gates):
        return None
    weights = gates.cumprod(0)
    return torch.cat([
        weights.new_ones(sizes[0]),
        *(w.expand(n) for w, n in zip(weights, sizes[1:]))
    ])


def position_weights(gates: Optional[Tensor], strides: Sequence[int],
                     h: int, w: int) -> Optional[Tensor]:
    """The weight of each position of the finest grid, ``(h, w)``.

    Args:
        gates (Tensor, optional): ``(len(strides) - 1, )``.
        strides (Sequence[int]): Falling, each a multiple of the next.
        h (int): Rows of the finest grid.
        w (int): Columns of the finest grid.
    """
    if gates is None:
        return None
    weights = gates.cumprod(0)
    result = weights[-1].expand(h, w)
    for i in range(len(strides) - 2, -1, -1):
        step = strides[i] // strides[-1]
        grid = torch.zeros(h, w, dtype=torch.bool, device=gates.device)
        grid[::step, ::step] = True
        weight = weights[i - 1] if i else weights.new_ones(())
        result = torch.where(grid, weight, result)
    return result


def cut(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The first channels and the core of the kernel, a view.

    Args:
        tensor (Tensor): A weight or statistic of the largest block.
        shape (Size): The shape in a smaller block.
    """
    for dim, size in enumerate(shape):
        start = (tensor.shape[dim] - size) // 2 if dim >= 2 else 0
        tensor = tensor.narrow(dim, start, size)
    return tensor


def sync_bn_like(network: nn.Module, other: nn.Module) -> nn.Module:
    """Convert between BN and SyncBN, so that a network has the layers of another.

    A runner converts a supernet after it is built: to SyncBN by its ``sync_bn``, to BN
    without distributed training.

    Args:
        network (nn.Module): The network to convert.
        other (nn.Module): The other network.
    """
    kind = _sync_bn(other)
    if kind == _sync_bn(network):
        return network
    if kind is None:
        return revert_sync_batchnorm(network)
    return convert_sync_batchnorm(network, kind)


def _sync_bn(network: nn.Module) -> Optional[str]:
    """Whose SyncBN a network has: ``'torch'``, ``'mmcv'`` or None."""
    for module in network.modules():
        if type(module).__name__ == 'SyncBatchNorm':
            return 'torch' if isinstance(module, nn.SyncBatchNorm) else 'mmcv'
    return None


def affinity_distances(x: Tensor, channels: Sequence[int],
                       strides: Sequence[int], statistic: str
                       ) -> Dict[str, Tensor]:
    r"""Distances of the affinities of compact features from the largest affinity.

    ``X`` has the compact channels at all positions, and ``Y`` at the sampled positions.
    The affinity is ``A = X^T Y``, ``HW x hw``. It is never formed:
    :math:`\langle X^T Y, X'^T Y' \rangle = \langle X X'^T, Y Y'^T \rangle`,
    so all products come from ``k x k`` Gram matrices. The matrices for fewer channels
    are corners of the largest matrix.

    With ``statistic='norm'`` the distances are the paper's,
    :math:`\|A_i - A_{gt}\|^2`. The affinity of a wider stride then has zeros at
    positions that it does not sample. For strides this distance says little: it is
    about :math:`1 - 1/s^2` of :math:`\|A_{gt}\|^2` for any features, though the BN
    after LightNL removes the difference in size. ``'relative'`` is :math:`1 - \cos^2`
    of the angle between the affinities, or, for strides, between the Gram matrices of
    the sampled positions.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        channels (Sequence[int]): Compact channels of each ratio, rising.
        strides (Sequence[int]): Falling.
        statistic (str): ``'relative'`` or ``'norm'``.

    Returns:
        dict[str, Tensor]: ``nl_ratio``, ``(len(channels) - 1, )``, at the
        finest stride, and ``nl_stride``, ``(len(strides) - 1, )``, with all
        channels; averages over the batch.
    """
    x = x[:, :channels[-1]]
    if x.dtype != torch.float64:
        x = x.float()  # products of half precision overflow

    def gram(stride: int) -> Tensor:
        y = x[:, :, ::stride, ::stride].flatten(2)
        return y @ y.transpose(1, 2)  # (N, k, k)

    sampled = [gram(s) for s in strides]
    full = sampled[-1] if strides[-1] == 1 else gram(1)
    finest = sampled[-1]
    products = full * finest

    ratios = []
    for k in channels[:-1]:
        if statistic == 'norm':
            d = products[:, k:, k:].sum((1, 2))
        else:
            d = _one_minus_cos2(products[:, :k].sum((1, 2)),
                                products[:, :k, :k].sum((1, 2)),
                                products.sum((1, 2)))
        ratios.append(d.mean())
    steps = []
    for coarse in sampled[:-1]:
        if statistic == 'norm':
            d = (full * (finest - coarse)).sum((1, 2))
        else:
            d = _one_minus_cos2((coarse * finest).sum((1, 2)),
                                coarse.square().sum((1, 2)),
                                finest.square().sum((1, 2)))
        steps.append(d.mean())
    return {
        name: torch.stack(values)
        for name, values in (('nl_ratio', ratios), ('nl_stride', steps))
        if values
    }


def _one_minus_cos2(product: Tensor, square_a: Tensor,
                    square_b: Tensor) -> Tensor:
    scale = (square_a * square_b).clamp(min=torch.finfo(product.dtype).tiny)
    return (1 - product.square() / scale).clamp(min=0)


class SearchableMBConv(MBConv):
    """:class:`MBConv` whose gates cut it down to a block of its space.

    Args:
        space (BlockSpace): The choices.
        statistic (str): Measure of distances, ``'relative'`` or ``'norm'``.
        **kwargs: As for MBConv.

    Attributes:
        options (dict[str, tuple]): Options of each decision with several options.

    Shape:
        ``(N, C_in, H, W)`` in, ``(N, C_out, ceil(H/stride), ceil(W/stride))``
        out.
    """

    def __init__(self, space: BlockSpace, statistic: str, **kwargs):
        super().__init__(space.largest, **kwargs)
        self.space = space
        self._block_args = kwargs
        self._smaller: Dict[BlockSpec, MBConv] = {}  # without weights
        self.statistic = statistic
        spec = self.spec
        widths = dict(
            expand_ratio=[int(spec.in_channels * e)
                          for e in space.expand_ratio],
            kernel_size=[k * k for k in space.kernel_size],
            se_ratio=[max(1, round(spec.in_channels * r)) if r else 0
                      for r in space.se_ratio],
            nl=[9 * on for on in space.nl],
            nl_ratio=[int(spec.out_channels * r) for r in space.nl_ratio])
        self.parts = {name: part_sizes(w) for name, w in widths.items()}
        self.options = {
            name: space.options[name]
            for name in DECISIONS if len(space.options[name]) > 1
        }
        rings = torch.zeros(
            len(space.kernel_size), spec.kernel_size, spec.kernel_size)
        for ring, k in zip(rings, space.kernel_size):
            edge = (spec.kernel_size - k) // 2
            ring[edge:edge + k, edge:edge + k] = 1
        rings[1:] -= rings[:-1].clone()
        self.register_buffer('rings', rings, persistent=False)

    def energies(self) -> Dict[str, Tensor]:
        """Energy of every group of weights that has a gate, by decision.

        Returns:
            dict[str, Tensor]: ``(n - 1, )`` for n options; zeros where distances
            are measured instead.
        """
        energies = {}
        kernel = self.depthwise.conv.weight.square()
        for name, options in self.options.items():
            if name == 'expand_ratio':
                energies[name] = part_energies(
                    kernel.sum((1, 2, 3)), self.parts[name])
            elif name == 'kernel_size':
                energies[name] = (kernel.sum((0, 1)) * self.rings[1:]).sum(
                    (1, 2))
            elif name == 'se_ratio':
                energies[name] = part_energies(
                    self.se.reduce.weight.square().sum((1, 2, 3)),
                    self.parts[name])
            elif name == 'nl':
                energies[name] = self.light_nl.conv.weight.square().sum()[None]
            else:
                energies[name] = kernel.new_zeros(len(options) - 1)
        return energies

    def probabilities(self, gates: Dict[str, Tensor]) -> Tuple[Tensor, ...]:
        """Share of every option of every decision, in float64.

        Args:
            gates (dict[str, Tensor]): Gates of each decision, hard or relaxed to
                numbers from 0 to 1; hard gates give the whole share to one option.
        """
        shares = []
        for name in DECISIONS:
            if name not in gates:
                shares.append(self.rings.new_ones(1, dtype=torch.float64))
                continue
            on = gates[name]
            reached = torch.cat([on.new_ones(1), on.cumprod(0)]).double()
            shares.append(
                torch.cat([reached[:-1] - reached[1:], reached[-1:]]))
        return tuple(shares)

    def forward(self,
                x: Tensor,
                gates: Dict[str, Tensor],
                distances: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

        Args:
            x (Tensor): The feature map.
            gates (dict[str, Tensor]): ``(n - 1, )`` for each decision of n options.
            distances (dict[str, Tensor], optional): Tensors of the same shapes, to
                which the affinities' distances of this batch are written. Defaults to
                None, nothing is measured.
        """
        block_on, hidden = self._split('expand_ratio', gates)
        out = x if self.expand is None else self.expand(x)
        out = self._depthwise(out, gates.get('kernel_size'))
        if self.se is not None:
            out = self._squeeze_excite(out, hidden, gates)
        out = self._project(out, hidden)
        if self.light_nl is not None:
            if distances is not None:
                self._measure(out.detach(), distances)
            branch = self._light_nl(out, gates)
            nl_on = gates.get('nl')
            out = out + (branch if nl_on is None else
                         branch * nl_on.to(branch.dtype))
        if self.spec.with_identity:
            out = x + (out if block_on is None else
                       out * block_on.to(out.dtype))
        return out

    def forward_spec(self, x: Tensor, spec: BlockSpec) -> Tuple[Tensor, Set[str]]:
        """Run as one block of the space, at the cost of this block.

        Weights and running statistics of the block are views of the largest block's
        tensors, which get the gradients and the updates. With gates, every block costs
        as much as the largest block.

        Args:
            x (Tensor): ``(N, C_in, H, W)``.
            spec (BlockSpec): The block.

        Returns:
            tuple[Tensor, set[str]]: ``(N, C_out, H', W')``, and the names of the
            used parameters.
        """
        if spec not in self._smaller:
            with torch.device('meta'):
                self._smaller[spec] = sync_bn_like(
                    MBConv(spec, **self._block_args), self)
        block = self._smaller[spec]
        for name, module in block.named_modules():
            module.training = self.get_submodule(name).training
        own = dict(self.named_parameters())
        tensors = {name: cut(own[name], value.shape)
                   for name, value in block.named_parameters()}
        used = set(tensors)
        own = dict(self.named_buffers())
        tensors.update((name, cut(own[name], value.shape))
                       for name, value in block.named_buffers())
        return functional_call(block, tensors, (x, )), used

    def _split(self, name: str, gates: Dict[str, Tensor]
               ) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Gate of the whole part and weights of its units, each None if it has none."""
        own = gates.get(name)
        sizes = self.parts[name]
        if own is None or sizes[0]:
            return None, unit_weights(own, sizes)
        return own[0], unit_weights(own[1:], sizes[1:])

    def _depthwise(self, x: Tensor, gates: Optional[Tensor]) -> Tensor:
        weight = None
        if gates is not None:
            weight = self.depthwise.conv.weight * (
                self.rings[0] + torch.tensordot(
                    gates.cumprod(0), self.rings[1:], 1))
        x = depthwise_conv2d(x, self.depthwise.conv, weight)
        return self.depthwise.activate(self.depthwise.norm(x))

    def _squeeze_excite(self, x: Tensor, hidden: Optional[Tensor],
                        gates: Dict[str, Tensor]) -> Tensor:
        on, units = self._split('se_ratio', gates)
        squeezed = self.se.pool(x)
        if hidden is not None:
            squeezed = squeezed * hidden[:, None, None]
        squeezed = self.se.act(self.se.reduce(squeezed))
        if units is not None:
            squeezed = squeezed * units[:, None, None]
        scale = self.se.expand(squeezed).sigmoid()
        if on is not None:
            scale = 1 + on * (scale - 1)
        return x * scale.to(x.dtype)

    def _project(self, x: Tensor, hidden: Optional[Tensor]) -> Tensor:
        if hidden is None:
            return self.project(x)
        # Scaling the weights' inputs is cheaper than scaling the feature map.
        conv = self.project.conv
        weight = conv.weight * hidden[:, None, None]
        return self.project.norm(
            functional_call(conv, dict(weight=weight), (x, )))

    def _light_nl(self, x: Tensor, gates: Dict[str, Tensor]) -> Tensor:
        stride = self.light_nl.stride
        channels = unit_weights(gates.get('nl_ratio'), self.parts['nl_ratio'])
        h, w = (-(-size // stride) for size in x.shape[2:])
        positions = position_weights(
            gates.get('nl_stride'), self.space.nl_stride, h, w)
        weight = None
        if channels is not None:
            weight = channels[:, None]
        if positions is not None:
            positions = positions.reshape(1, h * w)
            weight = positions if weight is None else weight * positions
        return self.light_nl.branch(x, weight)

    @torch.no_grad()
    def _measure(self, x: Tensor, distances: Dict[str, Tensor]) -> None:
        """Write the distances of this batch for the gates that need them."""
        wanted = [name for name in MEASURED if name in self.options]
        if not wanted:
            return
        channels = [int(self.spec.out_channels * r)
                    for r in self.space.nl_ratio]
        with torch.autocast(x.device.type, enabled=False):
            measured = affinity_distances(x, channels, self.space.nl_stride,
                                          self.statistic)
        for name in wanted:
            distances[name].copy_(measured[name])

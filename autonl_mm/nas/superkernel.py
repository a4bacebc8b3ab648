# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""One block that is every block of its space at once.

Its weights are those of the largest block, and a smaller block's are slices
of them: the depthwise kernel's core, the first hidden channels, the first
hidden units of squeeze-excite (Single-Path NAS, arXiv 1904.02877). So all
choices together cost what the largest costs, LightNL's by feature reuse
(section 3.2 of the paper).

The block *is* the one that its gates choose. Where the paper's formulas break
that, the gates act elsewhere:

- A zeroed kernel leaves the shift of the BN behind it alive. Hidden channels
  are cut off after BN and activation, where squeeze-excite and the project
  convolution read them; LightNL and the whole block after their last BN.
- Squeeze-excite without hidden units would multiply by sigmoid(0). Off, its
  factor is 1.
"""
from typing import Dict, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call

from autonl_mm.models import MBConv

from .gates import CompactnessGates, WeightGates
from .space import DECISIONS, BlockSpace


def part_sizes(widths: Sequence[int]) -> Tuple[int, ...]:
    """Units that each of the rising widths has beyond the one before."""
    return tuple(b - a for a, b in zip((0, *widths), widths))


def part_energies(energy: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over all parts but the first, which has no gate.

    Args:
        energy (Tensor): ``(sum(sizes), )``, one number a unit.
        sizes (Sequence[int]): Units of each part.
    """
    return torch.stack([part.sum() for part in energy.split(sizes)[1:]])


def unit_weights(gates: Optional[Tensor],
                 sizes: Sequence[int]) -> Optional[Tensor]:
    """What each unit counts, ``(sum(sizes), )``; None where all count 1.

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
    """What each position of the finest grid counts, ``(h, w)``.

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


def affinity_distances(x: Tensor, channels: Sequence[int],
                       strides: Sequence[int], statistic: str
                       ) -> Dict[str, Tensor]:
    r"""How far the affinities of compact features are from the largest one.

    With ``X`` the compact channels at all positions and ``Y`` at the sampled
    ones, the affinity is ``A = X^T Y``, ``HW x hw``. It is never formed:
    :math:`\langle X^T Y, X'^T Y' \rangle = \langle X X'^T, Y Y'^T \rangle`,
    so all products come from ``k x k`` Gram matrices, of which those for
    fewer channels are corners.

    With ``statistic='norm'`` the distances are the paper's,
    :math:`\|A_i - A_{gt}\|^2`, an affinity of a wider stride having zeros
    where it does not sample. For strides that says little: it is about
    :math:`1 - 1/s^2` of :math:`\|A_{gt}\|^2` whatever the features, though the
    BN behind LightNL takes the smaller sum for the same. Hence
    ``'relative'``: :math:`1 - \cos^2` of the angle between the affinities,
    or, for strides, between the Gram matrices of what they sample.

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
    x = x[:, :channels[-1]].float()

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
    """:class:`MBConv` with gates for the choices of a :class:`BlockSpace`.

    Args:
        space (BlockSpace): The choices.
        statistic (str): Of the gates, ``'relative'`` or ``'norm'``.
        momentum (float): Of the averages of affinities' distances.
        **kwargs: As for MBConv.

    Attributes:
        gates (ModuleDict): The gates of each decision that is one.
        measured (dict[str, Tensor]): Distances of the last training batch,
            for the supernet to average over ranks.

    Shape:
        ``(N, C_in, H, W)`` in, ``(N, C_out, ceil(H/stride), ceil(W/stride))``
        out.
    """

    def __init__(self, space: BlockSpace, statistic: str, momentum: float,
                 **kwargs):
        super().__init__(space.largest, **kwargs)
        self.space = space
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
        self.gates = nn.ModuleDict()
        for name in DECISIONS:
            options = space.options[name]
            if len(options) == 1:
                continue
            if name in ('nl_ratio', 'nl_stride'):
                self.gates[name] = CompactnessGates(options, statistic,
                                                    momentum)
            else:
                self.gates[name] = WeightGates(options, statistic)
        rings = torch.zeros(
            len(space.kernel_size), spec.kernel_size, spec.kernel_size)
        for ring, k in zip(rings, space.kernel_size):
            edge = (spec.kernel_size - k) // 2
            ring[edge:edge + k, edge:edge + k] = 1
        rings[1:] -= rings[:-1].clone()
        self.register_buffer('rings', rings, persistent=False)
        self.measured: Dict[str, Tensor] = {}
        self._remember()

    def init_weights(self) -> None:
        """As MBConv; the gates measure the weights against these."""
        super().init_weights()
        self._remember()

    def _remember(self) -> None:
        for name, energy in self._energies().items():
            self.gates[name].remember(energy)

    def _energies(self) -> Dict[str, Tensor]:
        """Energy of every group of weights that has a gate, by decision."""
        energies = {}
        kernel = self.depthwise.conv.weight.square()
        for name in self.gates:
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
        return energies

    def values(self) -> Dict[str, Tensor]:
        """Values that the gates hold against their thresholds."""
        energies = self._energies()
        return {
            name: gate(energies[name]) if name in energies else gate()
            for name, gate in self.gates.items()
        }

    def take_gains(self) -> Dict[str, Tuple[Tensor, Tensor]]:
        """What the last iteration says of all gains, by decision.

        Returns:
            dict[str, tuple[Tensor, Tensor]]: As
            :meth:`NestedGates.take_gain`; nothing inside of a block that is
            off can be seen, nor what LightNL that is off is like.
        """
        result = {}
        for name, gate in self.gates.items():
            gain, weight = gate.take_gain()
            if weight.any():
                for parent, inside in self._parents():
                    if name in inside:
                        weight = weight * parent
            result[name] = gain, weight
        return result

    def _parents(self) -> Iterator[Tuple[Tensor, Sequence[str]]]:
        """Gates as last shown, each with the decisions that hang on it."""
        if self.space.skippable:
            yield (self.gates['expand_ratio'].shown[0],
                   [d for d in DECISIONS if d != 'expand_ratio'])
        if 'nl' in self.gates:
            yield self.gates['nl'].shown[0], ('nl_ratio', 'nl_stride')

    def probabilities(self, relaxed: bool = False) -> Tuple[Tensor, ...]:
        """Share of every option of every decision, in float64.

        Args:
            relaxed (bool): Whether to relax the gates to sigmoids. Defaults
                to False: one option has all.
        """
        values = self.values()
        shares = []
        for name in DECISIONS:
            if name not in self.gates:
                shares.append(self.rings.new_ones(1, dtype=torch.float64))
                continue
            on = self.gates[name].decided(values[name], relaxed)
            reached = torch.cat([on.new_ones(1), on.cumprod(0)]).double()
            shares.append(
                torch.cat([reached[:-1] - reached[1:], reached[-1:]]))
        return tuple(shares)

    def _inner_forward(self, x: Tensor) -> Tensor:
        values = self.values()
        gates = {
            name: gate.indicators(values[name])
            for name, gate in self.gates.items()
        }
        block_on, hidden = self._split('expand_ratio', gates)
        out = x if self.expand is None else self.expand(x)
        out = self._depthwise(out, gates.get('kernel_size'))
        if self.se is not None:
            out = self._squeeze_excite(out, hidden, gates)
        out = self._project(out, hidden)
        if self.light_nl is not None:
            branch = self._light_nl(out, gates)
            nl_on = gates.get('nl')
            out = out + (branch if nl_on is None else
                         branch * nl_on.to(branch.dtype))
        if self.spec.with_identity:
            out = x + (out if block_on is None else
                       out * block_on.to(out.dtype))
        return out

    def _split(self, name: str, gates: Dict[str, Tensor]
               ) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Gate of the whole and weights of the units, where there are."""
        own = gates.get(name)
        sizes = self.parts[name]
        if own is None or sizes[0]:
            return None, unit_weights(own, sizes)
        return own[0], unit_weights(own[1:], sizes[1:])

    def _depthwise(self, x: Tensor, gates: Optional[Tensor]) -> Tensor:
        conv = self.depthwise.conv
        if gates is None:
            x = conv(x)
        else:
            mask = self.rings[0] + torch.tensordot(
                gates.cumprod(0), self.rings[1:], 1)
            x = functional_call(conv, dict(weight=conv.weight * mask), (x, ))
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
        # Scaling the inputs of the weights is scaling the map, which is large.
        conv = self.project.conv
        weight = conv.weight * hidden[:, None, None]
        return self.project.norm(
            functional_call(conv, dict(weight=weight), (x, )))

    def _light_nl(self, x: Tensor, gates: Dict[str, Tensor]) -> Tensor:
        stride = self.light_nl.stride
        if self.training and torch.is_grad_enabled():
            self._measure(x.detach())
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

    def _measure(self, x: Tensor) -> None:
        """Keep the distances of this batch where a gate wants them."""
        if 'nl_ratio' not in self.gates and 'nl_stride' not in self.gates:
            return
        channels = [int(self.spec.out_channels * r)
                    for r in self.space.nl_ratio]
        statistic = next(iter(self.gates.values())).statistic
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            self.measured = affinity_distances(x, channels,
                                               self.space.nl_stride, statistic)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Gates: indicators with trained thresholds (section 3.2 of the paper).

A decision has n options, each contained in the next option, and n - 1 gates. Gate i
switches the part that option i + 1 has beyond option i. A part is on only if all parts
before it are on. A gate is on if its value exceeds its threshold: ``1(v > t)``, with
the gradient of ``sigmoid(v - t)``.

The values are energies of weights, or distances between affinities for LightNL's
channel ratio and stride. With ``statistic='norm'`` they are the paper's values,
``||w||^2`` and ``||A_i - A_gt||^2``. These are in the hundreds for whole kernels,
where the sigmoid has no gradient, so no gate ever moves. With
``statistic='relative'`` the values are divided by their values at initialisation, so
they start at 1.
"""
from typing import Dict, List, Mapping, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.dist import all_reduce
from torch import Tensor

STATISTICS = ('relative', 'norm')
# Decisions whose values are distances, measured in training
MEASURED = ('nl_ratio', 'nl_stride')
# Share of a batch in the moving averages of the affinities' distances
DISTANCE_MOMENTUM = 0.1
# Share of the gates of a sampled subnet that take a number between off and on
BETWEEN_RATE = 0.1
# Share of an iteration in the moving averages of importance, which is noisy
IMPORTANCE_MOMENTUM = 0.0005


class _Indicator(torch.autograd.Function):

    @staticmethod
    def forward(ctx, value, threshold, sampled, weight):
        margin = value - threshold
        ctx.save_for_backward(margin)
        ctx.weight = weight
        on = (margin > 0).to(margin.dtype)
        return on if sampled is None else on.where(sampled.isnan(), sampled.to(on))

    @staticmethod
    def backward(ctx, grad):
        s = ctx.saved_tensors[0].sigmoid()
        grad = grad * s * (1 - s)
        if ctx.weight is not None:
            grad = grad * ctx.weight
        return grad, -grad, None, None


def indicator(value: Tensor,
              threshold: Tensor,
              sampled: Optional[Tensor] = None,
              weight: Optional[Tensor] = None) -> Tensor:
    """``1(value > threshold)`` with the gradient of a sigmoid.

    Args:
        value (Tensor): v.
        threshold (Tensor): t, of the same shape.
        sampled (Tensor, optional): Values to return instead; NaN for none. Defaults to
            None.
        weight (Tensor, optional): Factor of the gradient. Defaults to None.

    Returns:
        Tensor: 0 or 1, with the gradient of ``sigmoid(v - t)``.
    """
    return _Indicator.apply(value, threshold, sampled, weight)


class GateState(nn.Module):
    r"""The state of all gates of a supernet, in flat tensors of G gates.

    Before an iteration :meth:`sample` notes the numbers that the gates take in it. The
    forward pass gets all gates in one tensor, and the blocks use slices of this tensor.
    The gradient that the backward pass leaves on the tensor says by how much each part
    lowers the loss. After the iteration :meth:`average_importance` adds this gradient,
    averaged over ranks, to moving averages.

    **Importance.** The gradient of a gate that is on says how a small change of its
    part changes the loss. This gain is zero once the weights after the gate are
    trained, and negative under the noise of training: by this gradient alone, all gates
    would be switched off. The gain by the part as a whole is
    :math:`L(1) - L(0) = \int_0^1 L'(g) dg`, the mean gradient of a gate between off and
    on. Therefore, in a sampled iteration, most gates are the gates of a random subnet,
    and a few gates take a random number from 0 to 1. Importance and the gradients of
    thresholds come from these few gates alone.

    Args:
        options (Sequence[Mapping[str, Sequence]]): For each block the options of
            each decision, from the smallest to the largest; decisions of one
            option have no gates and are left out.
        skippable (Sequence[bool]): For each block whether its first gate of
            ``expand_ratio`` switches the whole block.
        statistic (str): ``'relative'`` or ``'norm'``, see the module's docstring.

    Attributes:
        slices (list[dict[str, slice]]): For each block the gates of each decision.
        threshold (Parameter): ``(G, )``, from 0: all gates are on at first.
    """

    def __init__(self, options: Sequence[Mapping[str, Sequence]],
                 skippable: Sequence[bool], statistic: str):
        super().__init__()
        self.statistic = statistic
        self.slices: List[Dict[str, slice]] = []
        count = 0
        for decisions in options:
            own = {}
            for name, values in decisions.items():
                own[name] = slice(count, count + len(values) - 1)
                count += len(values) - 1
            self.slices.append(own)
        self.threshold = nn.Parameter(torch.zeros(count))
        # Divisors of the values; 0 means that a divisor is not known yet.
        self.register_buffer('initial', torch.zeros(count))
        self.register_buffer('distance', torch.zeros(count))
        # moving averages, whose quotient is the importance
        self.register_buffer('importance_sum', torch.zeros(count))
        self.register_buffer('importance_weight', torch.zeros(count))
        self._add_structure(skippable)
        # Of the present iteration: the sampled gates, the rate of sampling, and the
        # gates of the forward pass, which receive the gradient.
        self._sampled: Optional[Tensor] = None
        self._rate = 0.0
        self._on: Optional[Tensor] = None

    def _add_structure(self, skippable: Sequence[bool]) -> None:
        """Masks ``is_measured (G, )`` and ``ancestors (G, G)``: row g marks the
        gates that must be on for the part of g to be seen."""
        count = len(self.threshold)
        is_measured = torch.zeros(count, dtype=torch.bool)
        ancestors = torch.zeros(count, count, dtype=torch.bool)
        for own, skips in zip(self.slices, skippable):
            for name, gates in own.items():
                is_measured[gates] = name in MEASURED
                for gate in range(gates.start, gates.stop):
                    ancestors[gate, gates.start:gate] = True
                if skips and name != 'expand_ratio':
                    ancestors[gates, own['expand_ratio'].start] = True
                if name in MEASURED and 'nl' in own:
                    ancestors[gates, own['nl'].start] = True
        self.register_buffer('is_measured', is_measured, persistent=False)
        self.register_buffer('ancestors', ancestors, persistent=False)

    def values(self, energies: Tensor) -> Tensor:
        """``(G, )``, the values that the gates compare with their thresholds.

        Args:
            energies (Tensor): ``(G, )``, sums of squares of each gate's weights; any
                number for gates whose distances are measured.
        """
        known = self.initial > 0
        value = torch.where(self.is_measured, self.distance, energies)
        if self.statistic == 'relative':
            value = value / self.initial.where(known, torch.ones_like(value))
        return value.where(known, torch.ones_like(value))

    @torch.no_grad()
    def remember(self, energies: Tensor) -> None:
        """Note ``energies``, ``(G, )``, as the energies at initialisation."""
        self.initial.copy_(energies.where(~self.is_measured, self.initial))

    def decide(self, values: Tensor, relaxed: bool = False) -> Tensor:
        """``(G, )`` gates by values and thresholds, without sampled gates.

        Args:
            values (Tensor): As :meth:`values` returns them.
            relaxed (bool): Whether to return the sigmoids instead of the hard
                indicators. Defaults to False.
        """
        if relaxed:
            return (values - self.threshold).sigmoid()
        return indicator(values, self.threshold)

    def sample(self, on: Optional[Tensor], rate: float,
               generator: torch.Generator) -> None:
        """Note the numbers that the gates take in the next iteration.

        Args:
            on (Tensor, optional): ``(G, )`` of 0 and 1, a sampled subnet; None
                for the active subnet.
            rate (float): Probability of a sampled subnet.
            generator (Generator): Source of random numbers.
        """
        self._rate = rate
        self._sampled = torch.full_like(self.threshold, float('nan'))
        if on is None:
            return
        # one draw for each decision
        sizes = [gates.stop - gates.start for own in self.slices
                 for gates in own.values()]
        between, number = torch.cat(
            [torch.rand((2, n), generator=generator) for n in sizes], 1)
        self._sampled.copy_(number.where(between < BETWEEN_RATE, on.to(number)))

    def stop_sampling(self) -> None:
        """Use the decided gates, with their gradient, from now on."""
        self._sampled = self._on = None

    def forward(self, values: Tensor) -> Tensor:
        """The ``(G, )`` gates of a forward pass.

        In training these are the sampled gates if there are any, else the decided
        gates.

        Args:
            values (Tensor): As :meth:`values` returns them.
        """
        if not self.training or self._sampled is None:
            return self.decide(values)
        weight = self._is_between().to(values) / (BETWEEN_RATE * self._rate)
        on = indicator(values, self.threshold, self._sampled, weight)
        if on.requires_grad:
            on.retain_grad()
        self._on = on
        return on

    def _is_between(self) -> Tensor:
        return (self._sampled > 0) & (self._sampled < 1)

    @torch.no_grad()
    def average_importance(self, loss_scale: float = 1.0) -> None:
        """Add the last iteration's gradient to the averages, over ranks.

        A gate does not count if its part had no effect: if a part before it, its block,
        or its LightNL was off.

        Args:
            loss_scale (float): Scale of the loss in mixed precision. Gradients that
                overflowed under it are left out, as in the optimiser. Defaults to 1.
        """
        on, self._on = self._on, None
        if on is None:
            return
        grad = torch.zeros_like(on) if on.grad is None else on.grad
        between = self._is_between().to(on)
        gain = -grad * between
        all_reduce(gain, 'mean')
        gain = gain / loss_scale
        if not gain.isfinite().all():
            return
        visible = torch.where(self.ancestors, on.detach(), torch.ones_like(on))
        self.importance_sum.lerp_(gain.to(self.importance_sum), IMPORTANCE_MOMENTUM)
        self.importance_weight.lerp_(
            (visible.prod(1) * between).to(self.importance_weight),
            IMPORTANCE_MOMENTUM)

    @property
    def importance(self) -> Tensor:
        """``(G, )``, the decrease of the task's loss by each part, averaged over
        iterations; 0 before it was measured."""
        measured = self.importance_weight > 0
        weight = self.importance_weight.where(
            measured, torch.ones_like(self.importance_sum))
        return (self.importance_sum / weight) * measured

    @torch.no_grad()
    def average_distances(self, distances: Tensor) -> None:
        """Add a batch's distances to the averages, over ranks.

        The gates are decided by an average over batches, because the exported subnet
        must not change with the batch. Distances that are not finite are left out.

        Args:
            distances (Tensor): ``(G, )``; any number for gates without distances.
        """
        all_reduce(distances, 'mean')  # so that all ranks decide alike
        measured = self.is_measured & distances.isfinite()
        first = measured & (self.initial == 0)
        self.initial.copy_(distances.clamp(min=1e-12).where(first, self.initial))
        mean = self.distance.lerp(distances, DISTANCE_MOMENTUM)
        mean = distances.where(first, mean)
        self.distance.copy_(mean.where(measured, self.distance))

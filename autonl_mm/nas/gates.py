# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Gates: indicators with trained thresholds (section 3.2 of the paper).

A decision has n options, each contained in the next, and n - 1 gates. Gate i
says whether the part that option i + 1 has beyond option i is there; a part
is there only if all before it are. It is on where its value exceeds its
threshold: ``1(v > t)``, with the gradient of ``sigmoid(v - t)``.

The values are the energies of weights (:class:`WeightGates`) or distances
between affinities (:class:`CompactnessGates`). With ``statistic='norm'`` they
are the paper's, ``||w||^2`` and ``||A_i - A_gt||^2``. These are in the hundreds
for whole kernels, where the sigmoid has no gradient, and no gate ever moves.
Hence ``statistic='relative'``: divided by what they were at initialisation,
they start at 1.
"""
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

STATISTICS = ('relative', 'norm')
# Share of the gates of a drawn network that show a number between off and on.
BETWEEN_RATE = 0.1


class _Indicator(torch.autograd.Function):

    @staticmethod
    def forward(ctx, value, threshold, shown, weight):
        margin = value - threshold
        ctx.save_for_backward(margin)
        ctx.weight = weight
        on = (margin > 0).to(margin.dtype)
        return on if shown is None else on.where(shown.isnan(), shown.to(on))

    @staticmethod
    def backward(ctx, grad):
        s = ctx.saved_tensors[0].sigmoid()
        grad = grad * s * (1 - s)
        if ctx.weight is not None:
            grad = grad * ctx.weight
        return grad, -grad, None, None


def indicator(value: Tensor,
              threshold: Tensor,
              shown: Optional[Tensor] = None,
              weight: Optional[Tensor] = None) -> Tensor:
    """``1(value > threshold)`` with the gradient of a sigmoid.

    Args:
        value (Tensor): v.
        threshold (Tensor): t, of the same shape.
        shown (Tensor, optional): What is returned instead where it is not
            NaN, for exploring. Defaults to None.
        weight (Tensor, optional): Factor of the gradient. Defaults to None.

    Returns:
        Tensor: 0 or 1; its gradient is that of ``sigmoid(v - t)``.
    """
    return _Indicator.apply(value, threshold, shown, weight)


class NestedGates(nn.Module):
    """The gates of one decision.

    Args:
        options (Sequence): From the smallest to the largest.
        statistic (str): ``'relative'`` or ``'norm'``, see the module's
            docstring. Defaults to ``'relative'``.

    Attributes:
        threshold (Parameter): ``(n - 1, )``, from 0: everything is on at
            first.
        shown (Tensor): ``(n - 1, )``, what the last iteration was shown.
    """

    def __init__(self, options: Sequence, statistic: str = 'relative'):
        super().__init__()
        self.options = tuple(options)
        self.statistic = statistic
        self.threshold = nn.Parameter(torch.zeros(len(options) - 1))
        # What the values are divided by; 0 stands for not known yet.
        self.register_buffer('initial', torch.zeros(len(options) - 1))
        # moving averages, whose quotient is the gain
        self.register_buffer('gain_sum', torch.zeros(len(options) - 1))
        self.register_buffer('gain_weight', torch.zeros(len(options) - 1))
        self.shown: Optional[Tensor] = None
        self._draw: Optional[Tensor] = None
        self._weight: Optional[Tensor] = None
        self._task_grad: Optional[Tensor] = None

    def explore(self, on: Optional[Tensor], rate: float,
                generator: torch.Generator) -> None:
        r"""Draw what the gates show in the next iteration.

        The gradient of a gate that is on says what the loss gains by more of
        its part, which is nothing once the weights behind it are trained, and
        less than nothing under the noise of training: by it alone everything
        would be switched off. What the loss gains by the part as a whole is
        :math:`L(1) - L(0) = \int_0^1 L'(g) dg`, the mean gradient of a gate
        that is somewhere between off and on. So most gates show what they are
        in a network that was drawn, and a few a number from 0 to 1, and it is
        the last that the gradient is taken from.

        Args:
            on (Tensor, optional): ``(n - 1, )``, 0 or 1, of the network that
                was drawn; None to show what is decided.
            rate (float): How often a network is drawn.
            generator (Generator): Source of chance.
        """
        self._draw, self._weight = None, torch.zeros_like(self.threshold)
        if on is not None:
            between, number = torch.rand((2, *self.threshold.shape),
                                         generator=generator)
            between = between < BETWEEN_RATE
            draw = number.where(between, on.to(number.dtype))
            self._draw = draw.to(self.threshold.device)
            # The mean over iterations is that of the gradients in between.
            self._weight += between.to(self._weight) / (BETWEEN_RATE * rate)

    def stop_exploring(self) -> None:
        """Show what is decided, with the gradient of that."""
        self._draw = self._weight = None

    @property
    def gain(self) -> Tensor:
        """``(n - 1, )``, how much each part lowers the task's loss, averaged
        over iterations; 0 before it was measured."""
        measured = self.gain_weight > 0
        return torch.where(
            measured, self.gain_sum /
            self.gain_weight.where(measured, torch.ones_like(self.gain_sum)),
            torch.zeros_like(self.gain_sum))

    def _value(self, value: Tensor) -> Tensor:
        known = self.initial > 0
        if self.statistic == 'relative':
            value = value / self.initial.where(known, torch.ones_like(value))
        return value.where(known, torch.ones_like(value))

    def indicators(self, value: Tensor) -> Tensor:
        """``(n - 1, )`` hard gates for values of that shape; explores in
        training."""
        if not self.training:
            return indicator(value, self.threshold)
        on = indicator(value, self.threshold, self._draw, self._weight)
        self.shown = on.detach()
        if on.requires_grad:
            on.register_hook(self._keep_grad)
        return on

    def _keep_grad(self, grad: Tensor) -> None:
        self._task_grad = grad

    def take_gain(self) -> Tuple[Tensor, Tensor]:
        """What the last iteration says of the gains.

        Returns:
            tuple[Tensor, Tensor]: Both ``(n - 1, )``: the gains as they were
            seen, and how much of them could be seen. Where a gate before is
            off, or the gate was not drawn from between, that is nothing.
        """
        grad, self._task_grad = self._task_grad, None
        if grad is None or self._weight is None:
            return torch.zeros_like(self.gain_sum), torch.zeros_like(
                self.gain_sum)
        drawn = (self._weight > 0).to(grad.dtype)
        before = torch.cat([self.shown.new_ones(1), self.shown[:-1]])
        return -grad * drawn, before.cumprod(0) * drawn

    @torch.no_grad()
    def average_gain(self, gain: Tensor, weight: Tensor,
                     momentum: float) -> None:
        """Take what :meth:`take_gain` returned into the moving averages.

        Args:
            gain (Tensor): ``(n - 1, )``.
            weight (Tensor): ``(n - 1, )``.
            momentum (float): Share of an iteration.
        """
        self.gain_sum.lerp_(gain.to(self.gain_sum.dtype), momentum)
        self.gain_weight.lerp_(weight.to(self.gain_sum.dtype), momentum)

    def decided(self, value: Tensor, relaxed: bool = False) -> Tensor:
        """``(n - 1, )`` gates without exploring.

        Args:
            value (Tensor): ``(n - 1, )``.
            relaxed (bool): Whether to return the sigmoids instead of the hard
                indicators. Defaults to False.
        """
        if relaxed:
            return (value - self.threshold).sigmoid()
        return indicator(value, self.threshold)


class WeightGates(NestedGates):
    """Gates on the energy of weights, one group of weights a gate."""

    def forward(self, energy: Tensor) -> Tensor:
        """Values of the gates.

        Args:
            energy (Tensor): ``(n - 1, )``, sums of squares of the groups.

        Returns:
            Tensor: ``(n - 1, )``; the energy over that at initialisation, or
            the energy itself.
        """
        return self._value(energy)

    @torch.no_grad()
    def remember(self, energy: Tensor) -> None:
        """Take ``energy``, ``(n - 1, )``, as that at initialisation."""
        self.initial.copy_(energy)


class CompactnessGates(NestedGates):
    """Gates on a moving average of distances, measured in training.

    Option i is taken if its distance from the largest is below the threshold
    and no smaller one's is, so gate i is on where it is above.

    Args:
        options (Sequence): From the smallest to the largest.
        statistic (str): As for :class:`NestedGates`.
        momentum (float): Share of a new measurement in the average. Defaults
            to 0.1.
    """

    def __init__(self,
                 options: Sequence,
                 statistic: str = 'relative',
                 momentum: float = 0.1):
        super().__init__(options, statistic)
        self.momentum = momentum
        self.register_buffer('distance', torch.zeros(len(options) - 1))

    def forward(self) -> Tensor:
        """Values of the gates, ``(n - 1, )``; 1 before any measurement."""
        return self._value(self.distance)

    @torch.no_grad()
    def update(self, distance: Tensor) -> None:
        """Take in a measurement, ``(n - 1, )``.

        The gates are decided by an average over batches, since the network
        that is exported must not change with the batch.
        """
        first = self.initial == 0
        self.initial.copy_(
            self.initial.where(~first, distance.clamp(min=1e-12)))
        mean = self.distance.lerp(distance, self.momentum)
        self.distance.copy_(mean.where(~first, distance))

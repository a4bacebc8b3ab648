# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""AutoNLSuperNet, all networks of a search space at once."""
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from autonl_mm.arch import ArchSpec, BlockSpec
from autonl_mm.cost import LatencyTable, MacsModel, check_input_shape, iter_blocks
from autonl_mm.models import AutoNL
from autonl_mm.registry import MODELS

from .gates import STATISTICS, NestedGates
from .knapsack import solve_knapsack
from .space import DECISIONS, BlockSpace, SearchSpace
from .superkernel import SearchableMBConv

# How far beyond its threshold a gate is put that is switched by hand.
SWITCHED_MARGIN = 0.05
# Share of an iteration in the moving averages of the gates' gains, which are
# noisy.
GAIN_MOMENTUM = 0.0005


@MODELS.register_module()
class AutoNLSuperNet(AutoNL):
    """Supernet of AutoNL's search (section 3.2 of the paper), a backbone.

    Its weights are those of the largest network of the space, which the gates
    cut down; see :class:`SearchableMBConv`. Train it inside of a
    :class:`CostAwareModel`.

    Args:
        space (str | Mapping): ``'mnasnet'``, the paper's, or a dict, see
            :meth:`SearchSpace.from_config`. Defaults to ``'mnasnet'``.
        input_shape (tuple[int, int] | int): ``(H, W)`` of the image whose
            cost is counted. Defaults to (224, 224).
        num_classes (int, optional): Outputs of the classifier that is counted
            with the cost; None for the backbone alone. Defaults to 1000.
        out_indices (Sequence[int]): As for AutoNL, at least up to the last
            stage. Defaults to None, the head convolution.
        statistic (str): What the gates compare with their thresholds:
            ``'relative'``, or ``'norm'``, the paper's squared norms, which do
            not move; see :mod:`autonl_mm.nas.gates`. Defaults to
            ``'relative'``.
        momentum (float): Share of a batch in the moving averages of the
            affinities' distances. Defaults to 0.1.
        **kwargs: As for :class:`AutoNL`, but for ``arch`` and ``with_cp``.

    Raises:
        ValueError: If the space is not one or has nothing to choose, or an
            argument is out of range.

    Shape:
        As :class:`AutoNL` of the same ``out_indices``.
    """

    def __init__(self,
                 space: Union[str, Mapping] = 'mnasnet',
                 input_shape: Union[int, Tuple[int, int]] = (224, 224),
                 num_classes: Optional[int] = 1000,
                 out_indices: Optional[Sequence[int]] = None,
                 statistic: str = 'relative',
                 momentum: float = 0.1,
                 **kwargs):
        for name, reason in (('arch', 'its gates choose the network'),
                             ('with_cp', 'affinities would be measured '
                              'twice')):
            if name in kwargs:
                raise ValueError(f'AutoNLSuperNet takes no {name}: {reason}')
        if statistic not in STATISTICS:
            raise ValueError(f'statistic is {statistic!r}, expected one of '
                             f'{STATISTICS}')
        if not 0 < momentum <= 1:
            raise ValueError(f'momentum is {momentum}, expected a number in '
                             '(0, 1]')
        space = SearchSpace.from_config(space)
        last_stage = len(space.stages)
        if out_indices is None:
            out_indices = (last_stage + 1, )
        # read by _build_block, which AutoNL's constructor calls in order
        self._block_args = [(b, statistic, momentum) for b in space.blocks]
        super().__init__(
            arch=space.largest, out_indices=out_indices, **kwargs)
        if max(self.out_indices) < last_stage:
            raise ValueError(
                f'out_indices is {tuple(out_indices)}, but the space has '
                f'{last_stage} stages: what is not built cannot be searched, '
                'leave those stages out of the space or ask for the last one')
        self.space = space
        self.kwargs = dict(kwargs, out_indices=self.out_indices)
        self.input_shape = check_input_shape(input_shape)
        self.with_head = max(self.out_indices) > last_stage
        self.num_classes = num_classes if self.with_head else None
        self.set_cost_model(MacsModel())

    def _build_block(self, spec: BlockSpec, with_cp: bool,
                     **kwargs) -> SearchableMBConv:
        return SearchableMBConv(*self._block_args.pop(0), **kwargs)

    @property
    def blocks(self) -> List[SearchableMBConv]:
        """The blocks in order, as ``space.blocks``."""
        return [b for s in self.layers[1:len(self.space.stages) + 1]
                for b in s]

    def set_cost_model(self, model: Union[MacsModel, LatencyTable]) -> None:
        """Ask a cost model for every candidate block.

        Args:
            model (MacsModel | LatencyTable): The cost model.

        Raises:
            ValueError: If a latency table lacks a block.
        """
        self.cost_model = model
        rest = model.network(self.space.largest, self.input_shape,
                             self.num_classes, self.with_head)
        sizes = [size for _, _, size in iter_blocks(self.space.largest,
                                             self.input_shape)]
        known: Dict = {}  # blocks of a stage have the same table
        for space, size in zip(self.space.blocks, sizes):
            if (space, size) not in known:
                specs = map(space.spec, space.choices())
                known[space, size] = torch.tensor(
                    [0 if s is None else model.block(s, size) for s in specs],
                    dtype=torch.float64).reshape(space.shape)
            rest -= model.block(space.largest, size)
        # No buffers: half() and float() would round them.
        self._tables = [known[key] for key in zip(self.space.blocks, sizes)]
        self._rest_cost = rest
        self.sample_around(None)

    def sample_around(self, cost: Optional[float]) -> None:
        r"""Set which networks are drawn for exploring.

        What a part is worth depends on the rest of the network: a second
        block much where it is one of four, little where it is one of nine.
        So they are drawn with probabilities in proportion to
        :math:`e^{-\beta cost}`, from all of the space but around the cost
        that is searched for; among networks of equal costs they are uniform.

        Args:
            cost (float, optional): The mean of the draws. Defaults to None,
                uniform draws.
        """
        tables = [t.flatten() for t in self._tables]
        low, high = -1.0, 1.0  # beta, in shares of what a unit is worth
        unit = max(t.max().item() for t in tables) / 100
        for _ in range(50 if cost else 0):
            beta = (low + high) / 2
            mean = self._rest_cost + sum(
                ((-beta / unit * t).softmax(0) * t).sum().item()
                for t in tables)
            low, high = (beta, high) if mean > cost else (low, beta)
        beta = (low + high) / 2
        self._chances = [(-beta / unit * t).softmax(0) for t in tables]

    def cost_range(self) -> Tuple[float, float]:
        """Cost of the cheapest and of the most expensive network of the space."""
        return (self._rest_cost + sum(t.min().item() for t in self._tables),
                self._rest_cost + sum(t.max().item() for t in self._tables))

    def cost(self, relaxed: bool = False) -> Tensor:
        """Cost of the network that the gates choose.

        It is the expectation of the blocks' costs under independent
        decisions. While gates are hard that is exactly the cost of
        :meth:`arch`, in MACs ``count_macs(arch(), input_shape, num_classes,
        with_head)``; its gradient goes through the indicators' sigmoids.

        Args:
            relaxed (bool): Whether to relax the gates to sigmoids. Defaults
                to False.

        Returns:
            Tensor: A scalar in float64, in MACs or milliseconds.
        """
        total = self._rest_cost
        for block, expected in zip(self.blocks, self._tables):
            shares = block.probabilities(relaxed)
            expected = expected.to(shares[0].device)
            for share in shares:
                expected = torch.tensordot(share, expected, 1)
            total = total + expected
        return total

    def _margins(self) -> List[Dict[str, List[float]]]:
        """Value minus threshold of every gate, by block and decision."""
        with torch.no_grad():
            margins = [{
                name: value - block.gates[name].threshold
                for name, value in block.values().items()
            } for block in self.blocks]
            flat = torch.cat([m for b in margins for m in b.values()])
        numbers = iter(flat.tolist())
        return [{name: [next(numbers) for _ in m]
                 for name, m in b.items()} for b in margins]

    def choices(self) -> List[Tuple[int, ...]]:
        """Index of the chosen option of every decision, by block."""
        return [_choice(margins) for margins in self._margins()]

    def arch(self) -> ArchSpec:
        """The network that the gates choose."""
        return self.space.arch(self.choices())

    def gates(self) -> Dict[str, dict]:
        """Every decision, for logs and plots.

        Returns:
            dict[str, dict]: By the decision's name, such as
            ``layers.2.0.kernel_size``: its ``options``, the ``choice``, and a
            list of each gate's ``value``, ``threshold``, ``margin`` and ``gain``.
        """
        names = [f'layers.{i}.{j}'
                 for i, stage in enumerate(self.space.stages, 1)
                 for j in range(len(stage))]
        result = {}
        with torch.no_grad():
            for name, block in zip(names, self.blocks):
                for decision, value in block.values().items():
                    gate = block.gates[decision]
                    value = value.tolist()
                    threshold = gate.threshold.tolist()
                    margin = [v - t for v, t in zip(value, threshold)]
                    result[f'{name}.{decision}'] = dict(
                        options=list(gate.options),
                        choice=gate.options[_reached(margin)],
                        value=value,
                        threshold=threshold,
                        margin=margin,
                        gain=gate.gain.tolist())
        return result

    def _all_gates(self) -> List[NestedGates]:
        return [gate for block in self.blocks
                for gate in block.gates.values()]

    def thresholds(self) -> List[Tensor]:
        """Copies of all thresholds."""
        return [gate.threshold.detach().clone()
                for gate in self._all_gates()]

    @torch.no_grad()
    def set_thresholds(self, thresholds: List[Tensor]) -> None:
        """Set all thresholds, as :meth:`thresholds` returns them."""
        for gate, threshold in zip(self._all_gates(), thresholds):
            gate.threshold.copy_(threshold)

    def draw(self, generator: torch.Generator) -> List[Tuple[int, ...]]:
        """A random network, as :meth:`sample_around` says.

        Args:
            generator (Generator): Source of chance.

        Returns:
            list[tuple[int, ...]]: As :meth:`choices`.
        """
        flat = [torch.multinomial(c, 1, generator=generator).item()
                for c in self._chances]
        return [tuple(map(int, np.unravel_index(i, table.shape)))
                for i, table in zip(flat, self._tables)]

    def explore(self, rate: float, seed: int) -> None:
        """Set what the gates show in the next training iteration, see
        :meth:`NestedGates.explore`.

        Args:
            rate (float): Probability of showing a network that is drawn as a
                whole, rather than what is decided. 0 is the paper's rule, in
                which the gradient is that of what is decided.
            seed (int): Of the draw, which depends on nothing else, so that
                all ranks and a resumed run have the same.
        """
        if not rate:
            self.stop_exploring()
            return
        generator = torch.Generator().manual_seed(seed)
        network = self.draw(generator)
        shown = torch.rand((), generator=generator) < rate
        for block, choice in zip(self.blocks, network):
            drawn = dict(zip(DECISIONS, choice))
            for name, gate in block.gates.items():
                on = torch.arange(len(gate.options) - 1) < drawn[name]
                gate.explore(on if shown else None, rate, generator)

    @torch.no_grad()
    def average_gains(self, loss_scale: float = 1.0) -> None:
        """Take the last iteration's gains into their averages, over ranks.

        Args:
            loss_scale (float): What mixed precision multiplied the loss by.
                Gradients that overflowed under it are left out, as the
                optimiser does. Defaults to 1.
        """
        taken = [pair for block in self.blocks
                 for pair in block.take_gains().values()]
        flat = torch.cat([gain for gain, _ in taken])
        all_reduce(flat, 'mean')
        flat = flat / loss_scale
        if not flat.isfinite().all():
            return
        sizes = [len(gain) for gain, _ in taken]
        for gate, gain, (_, weight) in zip(self._all_gates(),
                                           flat.split(sizes), taken):
            gate.average_gain(gain, weight, GAIN_MOMENTUM)

    def stop_exploring(self) -> None:
        """Let the gates show what they decided."""
        for gate in self._all_gates():
            gate.stop_exploring()

    @torch.no_grad()
    def fit_budget(self, low: float, high: float) -> float:
        """Choose the network of the most gain whose cost lies in an interval.

        The gain of a network is the sum of its parts' average gains: the
        task's loss, linear in the gates. That makes it a knapsack, see
        :func:`solve_knapsack`. While no gains were measured the margins take
        their place, and a network inside of the interval stays as it is.

        Args:
            low (float): Least cost.
            high (float): Largest cost.

        Returns:
            float: The cost afterwards; the one nearest to the interval if the
            space has none inside.
        """
        margins = self._margins()
        worth = [{name: gate.gain.tolist()
                  for name, gate in block.gates.items()}
                 for block in self.blocks]
        if not any(any(w) for own in worth for w in own.values()):
            cost = self.cost().item()
            if low <= cost <= high:
                return cost
            worth = margins
        values = [_total_worth(block.space, own)
                  for block, own in zip(self.blocks, worth)]
        flat = solve_knapsack([v.ravel() for v in values],
                             [t.numpy().ravel() for t in self._tables],
                             low - self._rest_cost, high - self._rest_cost)
        self.choose([np.unravel_index(i, table.shape)
                     for i, table in zip(flat, self._tables)])
        return self.cost().item()

    @torch.no_grad()
    def choose(self, choices: Sequence[Sequence[int]]) -> None:
        """Switch the gates to a network.

        A gate is switched by moving its threshold, so that the decision stays
        ``1(v > t)``.

        Args:
            choices (Sequence[Sequence[int]]): As :meth:`choices`.
        """
        for block, own, choice in zip(self.blocks, self._margins(), choices):
            _switch(block, own, choice)

    def cost_of(self, choices: Sequence[Sequence[int]]) -> float:
        """Cost of a network.

        Args:
            choices (Sequence[Sequence[int]]): As :meth:`choices`.
        """
        return self._rest_cost + sum(
            table[tuple(choice)].item()
            for table, choice in zip(self._tables, choices))

    def switch_to_deploy(self) -> None:
        """A supernet has no deploy form.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'an AutoNLSuperNet has no deploy form, its gates still choose: '
            'export the network that it found (tools/export_arch.py, or '
            'export_subnet()) and switch that')

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """As AutoNL; in training the affinities' distances are measured."""
        outs = super().forward(x)
        measured = [(block.gates[name], distance) for block in self.blocks
                    for name, distance in block.measured.items()
                    if name in block.gates]
        if measured:
            # one message for all, so that every rank decides alike
            flat = torch.cat([distance for _, distance in measured])
            all_reduce(flat, 'mean')
            sizes = [len(distance) for _, distance in measured]
            for (gate, _), mean in zip(measured, flat.split(sizes)):
                gate.update(mean)
            for block in self.blocks:
                block.measured = {}
        return outs


def _total_worth(space: BlockSpace, worth: Dict[str, List[float]]
                 ) -> np.ndarray:
    """Sum over the parts that every choice has, of ``space.shape``.

    Args:
        space (BlockSpace): The choices.
        worth (dict[str, list[float]]): Of the part of every gate.
    """
    def of(name):
        parts = np.cumsum([0.0, *worth.get(name, [])])
        axes = [1] * len(DECISIONS)
        axes[DECISIONS.index(name)] = -1
        return parts.reshape(axes)

    nl_on = np.array(space.nl, float).reshape(1, 1, 1, -1, 1, 1)
    inside = of('kernel_size') + of('se_ratio') + of('nl') + nl_on * (
        of('nl_ratio') + of('nl_stride'))
    block_on = np.array([e > 0 for e in space.expand_ratio], float)
    return of('expand_ratio') + block_on.reshape(-1, 1, 1, 1, 1, 1) * inside


def _switch(block: SearchableMBConv, margins: Dict[str, List[float]],
            choice: Sequence[int]) -> None:
    """Move the thresholds of the gates that have to be other than they are.

    Args:
        block (SearchableMBConv): The block.
        margins (dict[str, list[float]]): Of its gates.
        choice (Sequence[int]): Index of the option of every decision.
    """
    for name, option in zip(DECISIONS, choice):
        for i, margin in enumerate(margins.get(name, [])[:option + 1]):
            on = i < option
            if (margin > 0) != on:
                wanted = SWITCHED_MARGIN if on else -SWITCHED_MARGIN
                block.gates[name].threshold[i] += margin - wanted


def _choice(margins: Dict[str, List[float]]) -> Tuple[int, ...]:
    """Index of the option of every decision, of gates of these margins."""
    return tuple(_reached(margins.get(name, [])) for name in DECISIONS)


def _reached(margins: List[float]) -> int:
    """Index of the option that gates of these margins choose."""
    for i, margin in enumerate(margins):
        if not margin > 0:
            return i
    return len(margins)

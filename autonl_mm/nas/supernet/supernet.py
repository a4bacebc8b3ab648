# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""AutoNLSuperNet, all subnets of a search space at once."""
from contextlib import contextmanager
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.model import Sequential
from torch import Tensor

from autonl_mm.arch import ArchSpec, BlockSpec
from autonl_mm.cost import CostModel, LatencyTable, MacsModel, check_input_shape
from autonl_mm.models import AutoNL
from autonl_mm.registry import MODELS
from autonl_mm.runs.config_parts import type_name

from .cost_table import CostTable
from .gates import STATISTICS, GateState
from .knapsack import solve_knapsack
from .space import DECISIONS, SAMPLINGS, BlockSpace, SearchSpace, Subnet
from .superkernel import SearchableMBConv

# Distance of a switched gate's value from its threshold
SWITCHED_MARGIN = 0.05


@MODELS.register_module()
class AutoNLSuperNet(AutoNL):
    """Supernet of AutoNL's search (section 3.2 of the paper), a backbone.

    It has the weights of the largest subnet of the space, which the gates cut down to
    the active subnet, see :class:`SearchableMBConv`. :class:`GateState` describes the
    gates in a training step. Train the supernet inside of a :class:`CostAwareModel`.

    Args:
        space (str | Mapping): ``'mnasnet'``, the paper's space, or a dict, see
            :meth:`SearchSpace.from_config`. Defaults to ``'mnasnet'``.
        input_shape (tuple[int, int] | int): ``(H, W)`` of the image whose
            cost is counted. Defaults to (224, 224).
        num_classes (int, optional): Outputs of the classifier that is counted
            with the cost; None for the backbone alone. Defaults to 1000.
        out_indices (Sequence[int]): As for AutoNL, at least up to the last
            stage. Defaults to None, the head convolution.
        statistic (str): Values that the gates compare with their thresholds:
            ``'relative'``, or ``'norm'``, the paper's squared norms, with which gates
            do not move; see :mod:`autonl_mm.nas.supernet.gates`. Defaults to
            ``'relative'``.
        normalize (str): Normalisation of every LightNL, ``'rms'`` or ``'size'``, also
            in subnets. Defaults to ``'rms'``.
        sampling (str): Whether all ``'choices'`` of the space or all ``'networks'`` are
            sampled equally often at equal costs, in training and as candidates; see
            :data:`~autonl_mm.nas.supernet.space.SAMPLINGS`. Defaults to ``'choices'``.
        **kwargs: As for :class:`AutoNL`, without ``arch`` and ``with_cp``.

    Raises:
        ValueError: If the space is invalid or has nothing to choose, or an argument is
            out of range.

    Shape:
        As :class:`AutoNL` of the same ``out_indices``.
    """

    sort_remapped_channels = True

    def __init__(self,
                 space: Union[str, Mapping] = 'mnasnet',
                 input_shape: Union[int, Tuple[int, int]] = (224, 224),
                 num_classes: Optional[int] = 1000,
                 out_indices: Optional[Sequence[int]] = None,
                 statistic: str = 'relative',
                 normalize: str = 'rms',
                 sampling: str = 'choices',
                 **kwargs):
        for name, reason in (('arch', 'its gates choose the subnet'),
                             ('with_cp', 'affinities would be measured '
                              'twice')):
            if name in kwargs:
                raise ValueError(f'AutoNLSuperNet takes no {name}: {reason}')
        for name, value, known in (('statistic', statistic, STATISTICS),
                                   ('sampling', sampling, SAMPLINGS)):
            if value not in known:
                raise ValueError(f'{name} is {value!r}, expected one of {known}')
        space = SearchSpace.from_config(space, normalize)
        last_stage = len(space.stages)
        if out_indices is None:
            out_indices = (last_stage + 1, )
        # read by _build_block, which AutoNL's constructor calls in order
        self._block_args = [(b, statistic) for b in space.blocks]
        super().__init__(
            arch=space.largest, out_indices=out_indices, **kwargs)
        if max(self.out_indices) < last_stage:
            raise ValueError(
                f'out_indices is {tuple(out_indices)}, but the space has '
                f'{last_stage} stages: later stages would not be built and searched, '
                'leave them out of the space or add the last stage to out_indices')
        self.space = space
        self.sampling = sampling
        self.gate_state = GateState(
            [block.options for block in self.blocks],
            [block.space.skippable for block in self.blocks], statistic)
        self.gate_state.remember(self._energies())
        self.kwargs = dict(kwargs, out_indices=self.out_indices)
        self.input_shape = check_input_shape(input_shape)
        self.with_head = max(self.out_indices) > last_stage
        # blocks of the subnet that runs instead of the active subnet, if any
        self._running: Optional[Tuple[Optional[BlockSpec], ...]] = None
        self.num_classes = num_classes if self.with_head else None
        self.set_cost_model(MacsModel())

    def _build_block(self, spec: BlockSpec, with_cp: bool,
                     **kwargs) -> SearchableMBConv:
        return SearchableMBConv(*self._block_args.pop(0), **kwargs)

    def init_weights(self) -> None:
        """As AutoNL; gates compare the weights with these initial weights."""
        super().init_weights()
        if not isinstance(self.init_cfg, dict) or (
                type_name(self.init_cfg) != 'Pretrained'):
            self.gate_state.remember(self._energies())

    @property
    def blocks(self) -> List[SearchableMBConv]:
        """The blocks in order, as ``space.blocks``."""
        return [b for s in self.layers[1:len(self.space.stages) + 1]
                for b in s]

    def set_cost_model(self, model: CostModel) -> None:
        """Count costs by a cost model.

        Args:
            model (CostModel): The cost model.

        Raises:
            ValueError: If a latency table lacks a block.
        """
        self.cost_model = model
        # No buffers: half() and float() would round them.
        self.cost_table = self.table_of(model)
        self.sample_around(None)

    @property
    def counted(self) -> dict:
        """Arguments of :func:`count_macs` besides the arch: what subnets are counted
        for."""
        return dict(
            input_shape=self.input_shape, num_classes=self.num_classes,
            with_head=self.with_head, in_channels=self.in_channels,
            output_stride=self.output_stride)

    def table_of(self, model: CostModel) -> CostTable:
        """The costs of all subnets by a cost model.

        Args:
            model (CostModel): The cost model.

        Raises:
            ValueError: If a latency table lacks a block, or was measured with other
                activations or padding.
        """
        if isinstance(model, LatencyTable):
            model.check_layers(self.cfgs)
        return CostTable(
            model, self.space, sampling=self.sampling, **self.counted)

    def sample_around(self, cost: Union[float, Sequence[float], None]) -> None:
        r"""Set the distribution of :meth:`sample_subnet`.

        The importance of a part depends on the rest of the subnet: a second block is
        important in a subnet of four blocks, and less important in a subnet of nine.
        So subnets are sampled around the target's cost, but from the whole space, with
        probabilities in proportion to :math:`e^{-\beta cost}`. Subnets of equal costs
        are equally probable, as ``sampling`` says.

        Args:
            cost (float | Sequence[float], optional): Mean cost of the samples. Each
                sample takes one of several costs at random. None for equal
                probabilities.
        """
        costs = cost if isinstance(cost, Sequence) else [cost]
        self._chances = [self.cost_table.probabilities(c) for c in costs]

    def cost_range(self) -> Tuple[float, float]:
        """Minimum and maximum cost of the subnets of the space."""
        return self.cost_table.range()

    def cost(self, relaxed: bool = False) -> Tensor:
        """Cost of the active subnet.

        It is the expectation of the blocks' costs under independent decisions. With
        hard gates this is exactly the cost of :meth:`arch`, in MACs
        ``count_macs(arch(), **counted)``. The gradient passes through the indicators'
        sigmoids.

        Args:
            relaxed (bool): Whether to relax the gates to sigmoids. Defaults
                to False.

        Returns:
            Tensor: A scalar in float64, in MACs or milliseconds.
        """
        on = self._by_block(self.gate_state.decide(self._values(), relaxed))
        total = self.cost_table.rest
        for block, gates, expected in zip(self.blocks, on, self.cost_table.blocks):
            shares = block.probabilities(gates)
            expected = expected.to(shares[0].device)
            for share in shares:
                expected = torch.tensordot(share, expected, 1)
            total = total + expected
        return total

    def _energies(self) -> Tensor:
        """``(G, )``, the energies of the weights of every gate."""
        return torch.cat(
            [e for block in self.blocks for e in block.energies().values()])

    def _values(self) -> Tensor:
        """``(G, )``, the values that the gates compare with their thresholds."""
        return self.gate_state.values(self._energies())

    def _by_block(self, flat: Sequence) -> List[Dict[str, Sequence]]:
        """Slices of a flat tensor or list of all gates, by block and decision."""
        return [{name: flat[gates] for name, gates in own.items()}
                for own in self.gate_state.slices]

    @torch.no_grad()
    def _margins(self) -> List[Dict[str, List[float]]]:
        """Value minus threshold of every gate, by block and decision."""
        return self._by_block((self._values() - self.gate_state.threshold).tolist())

    def active_subnet(self) -> Subnet:
        """The subnet that the gates choose."""
        return [_choice(margins) for margins in self._margins()]

    def arch(self) -> ArchSpec:
        """The spec of the active subnet."""
        return self.space.arch(self.active_subnet())

    @torch.no_grad()
    def gates(self) -> Dict[str, dict]:
        """Every decision, for logs and plots.

        Returns:
            dict[str, dict]: By the decision's name, such as
            ``layers.2.0.kernel_size``: its ``options``, the ``choice``, and a
            list of each gate's ``value``, ``threshold``, ``margin`` and
            ``importance``.
        """
        names = [f'layers.{i}.{j}'
                 for i, stage in enumerate(self.space.stages, 1)
                 for j in range(len(stage))]
        state, values = self.gate_state, self._values()
        numbers = {
            key: self._by_block(flat.tolist()) for key, flat in dict(
                value=values, threshold=state.threshold,
                margin=values - state.threshold, importance=state.importance).items()
        }
        result = {}
        for i, (name, block) in enumerate(zip(names, self.blocks)):
            for decision, options in block.options.items():
                own = {key: number[i][decision] for key, number in numbers.items()}
                result[f'{name}.{decision}'] = dict(
                    options=list(options),
                    choice=options[_reached(own['margin'])],
                    **own)
        return result

    def sample_subnet(self, generator: torch.Generator) -> Subnet:
        """A random subnet, from the distribution of :meth:`sample_around`.

        Args:
            generator (Generator): Source of random numbers.

        Returns:
            Subnet: The sample.
        """
        chances = self._chances[0]
        if len(self._chances) > 1:
            chances = self._chances[
                torch.randint(len(self._chances), (), generator=generator)]
        return self.cost_table.sample_subnet(chances, generator)

    def sample_gates(self, rate: float, seed: int) -> None:
        """Set the gates of the next training iteration, see :class:`GateState`.

        Args:
            rate (float): Probability of a sampled subnet in place of the active subnet.
                With 0, the paper's rule, the active subnet has the gradient.
            seed (int): Alone decides the sample, so that all ranks and a resumed run
                have the same sample.
        """
        if not rate:
            self.gate_state.stop_sampling()
            return
        generator = torch.Generator().manual_seed(seed)
        on = self._on(self.sample_subnet(generator))
        sampled = torch.rand((), generator=generator) < rate
        self.gate_state.sample(on if sampled else None, rate, generator)

    def _on(self, subnet: Subnet) -> Tensor:
        """``(G, )`` of bool, the gates of a subnet, on the CPU."""
        return torch.cat([
            torch.arange(len(block.options[name]) - 1) < option
            for block, choice in zip(self.blocks, subnet)
            for name, option in zip(DECISIONS, choice) if name in block.options
        ])

    @torch.no_grad()
    def fit_budget(self, low: float, high: float) -> float:
        """Choose the most important subnet whose cost lies in an interval.

        The importance of a subnet is the sum of the importances of its parts: the
        task's loss, linear in the gates. The choice is a knapsack problem, see
        :func:`solve_knapsack`. If no importance was measured yet, the margins of the
        gates replace it, and an active subnet inside of the interval stays active.

        Args:
            low (float): Minimum cost.
            high (float): Maximum cost.

        Returns:
            float: The new cost; the cost nearest to the interval if no subnet of the
            space lies inside.
        """
        importance = self.gate_state.importance
        if importance.any():
            parts = self._by_block(importance.tolist())
        else:
            cost = self.cost().item()
            if low <= cost <= high:
                return cost
            parts = self._margins()
        values = [_total_importance(block.space, own)
                  for block, own in zip(self.blocks, parts)]
        table = self.cost_table
        flat = solve_knapsack([v.ravel() for v in values],
                              [t.numpy().ravel() for t in table.blocks],
                              low - table.rest, high - table.rest)
        self.set_active_subnet([np.unravel_index(i, block.shape)
                                for i, block in zip(flat, self.space.blocks)])
        return self.cost().item()

    @torch.no_grad()
    def set_active_subnet(self, subnet: Subnet) -> None:
        """Switch the gates to a subnet.

        A gate is switched by moving its threshold, so that the decision stays
        ``1(v > t)``.

        Args:
            subnet (Subnet): The subnet.
        """
        threshold = self.gate_state.threshold
        for slices, margins, choice in zip(self.gate_state.slices, self._margins(),
                                           subnet):
            for name, option in zip(DECISIONS, choice):
                # gates after the first gate that is off have no effect
                for i, margin in enumerate(margins.get(name, [])[:option + 1]):
                    on = i < option
                    if (margin > 0) != on:
                        wanted = SWITCHED_MARGIN if on else -SWITCHED_MARGIN
                        threshold[slices[name].start + i] += margin - wanted

    @torch.no_grad()
    def copy_gates(self, other: 'AutoNLSuperNet') -> None:
        """Take the state of another supernet's gates, and its active subnet.

        Args:
            other (AutoNLSuperNet): A supernet of the same space. Its weights may
                differ, such as before they are averaged.
        """
        self.gate_state.load_state_dict(other.gate_state.state_dict())
        # values depend on the weights too
        self.set_active_subnet(other.active_subnet())

    def cost_of(self, subnet: Subnet) -> float:
        """Cost of a subnet.

        Args:
            subnet (Subnet): The subnet.
        """
        return self.cost_table.cost_of(subnet)

    def switch_to_deploy(self) -> None:
        """A supernet has no deploy form.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'an AutoNLSuperNet has no deploy form, because its gates still change: '
            'export the active subnet (tools/export_arch.py, or '
            'export_subnet()) and switch it to deploy form')

    @contextmanager
    def run_subnet(self, subnet: Subnet) -> Iterator[None]:
        """Run as one subnet in the ``with`` block, independent of the gates.

        The subnet computes at its own cost, with views of the supernet's weights. A
        training step trains these weights.

        Args:
            subnet (Subnet): The subnet.
        """
        self._running = self.space.specs(subnet)
        try:
            yield
        finally:
            self._running = None

    def _forward_subnet(self, x: Tensor) -> Tuple[Tensor, ...]:
        outs, unused = [], []
        specs = iter(self._running)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Sequential):
                x = layer(x)
            else:  # a stage
                for block in layer:
                    spec, used = next(specs), set()
                    if spec is not None:
                        x, used = block.forward_spec(x, spec)
                    unused += [p for name, p in block.named_parameters()
                               if name not in used and p.requires_grad]
            if i in self.out_indices:
                outs.append(x)
        if torch.is_grad_enabled() and unused:
            # Gradients of zero: distributed training waits for all parameters, and the
            # optimiser updates its averages as it does with gates.
            zero = torch.stack([p[(0, ) * p.dim()] for p in unused]).sum() * 0
            outs[-1] = outs[-1] + zero.to(outs[-1].dtype)
        return tuple(outs)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """As AutoNL. In training the affinities' distances are also measured."""
        self._check_input(x)
        if self._running is not None:
            return self._forward_subnet(x)
        state = self.gate_state
        gates = iter(self._by_block(state(self._values())))
        distances, slots = None, iter([None] * len(self.blocks))
        if self.training and torch.is_grad_enabled():
            distances = torch.zeros_like(state.distance)
            slots = iter(self._by_block(distances))
        outs = []
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Sequential):  # a stage
                for block in layer:
                    x = block(x, next(gates), next(slots))
            else:
                x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        if distances is not None:
            state.average_distances(distances)
        return tuple(outs)


def _total_importance(space: BlockSpace, parts: Dict[str, List[float]]
                      ) -> np.ndarray:
    """Sum over the parts of every choice, of ``space.shape``.

    Args:
        space (BlockSpace): The choices of the block.
        parts (dict[str, list[float]]): Importance of the part of every gate.
    """
    def of(name):
        parts_of = np.cumsum([0.0, *parts.get(name, [])])
        axes = [1] * len(DECISIONS)
        axes[DECISIONS.index(name)] = -1
        return parts_of.reshape(axes)

    nl_on = np.array(space.nl, float).reshape(1, 1, 1, -1, 1, 1)
    inside = of('kernel_size') + of('se_ratio') + of('nl') + nl_on * (
        of('nl_ratio') + of('nl_stride'))
    block_on = np.array([e > 0 for e in space.expand_ratio], float)
    return of('expand_ratio') + block_on.reshape(-1, 1, 1, 1, 1, 1) * inside


def _choice(margins: Dict[str, List[float]]) -> Tuple[int, ...]:
    """Index of the option of every decision, for gates with these margins."""
    return tuple(_reached(margins.get(name, [])) for name in DECISIONS)


def _reached(margins: List[float]) -> int:
    """Index of the option that gates with these margins choose."""
    for i, margin in enumerate(margins):
        if not margin > 0:
            return i
    return len(margins)

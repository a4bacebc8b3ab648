# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""CostAwareModel: a task model whose backbone is searched."""
import hashlib
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import ContextManager, Dict, Iterator, Optional, Sequence, Union

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor

from autonl_mm.cost import LatencyTable
from autonl_mm.nas.selection.choosing import TOLERANCE
from autonl_mm.nas.supernet.export import build_subnet
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.registry import MODELS
from autonl_mm.runs.checkpoints import fit_wrappers, load_checkpoint, weights_of
from autonl_mm.runs.model_wrappers import unwrap_model

from .soft_targets import caught_logits, logits_layer, soft_loss


@MODELS.register_module()
class CostAwareModel(BaseModel):
    r"""A task model with the cost of its backbone in the objective.

    The paper's objective is :math:`CE(w, t) + \lambda \log(cost(t))`. Its outcome
    depends on :math:`\lambda` and on the length of the run. With ``target`` the penalty
    is :math:`\lambda |\log(cost / target)|`. If the cost leaves the ``budget``, the
    range of costs allowed so far, the most important subnet inside of the budget is
    chosen, see :meth:`AutoNLSuperNet.fit_budget`. The search hook narrows the budget
    from the whole space to 2% around the target.

    Args:
        model (dict): Config of the task model of mmpretrain, mmdet or mmseg,
            its backbone an :class:`AutoNLSuperNet`.
        cost_weight (float): :math:`\lambda`.
        target (float, optional): Target cost of the search, in MACs or milliseconds.
            Defaults to None, the paper's objective.
        cost (str | PathLike): ``'macs'``, or the path of a latency table from
            ``tools/analysis_tools/measure_latency.py``. Defaults to
            ``'macs'``.
        data_preprocessor (dict, optional): For the task model. Defaults to
            None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If there is no supernet in the model, the target is
            outside of the space, or the latency table lacks a block.
        FileNotFoundError: If there is no such latency table.
    """

    unfinished = (
        'this is the config of a search, which has no final network yet: export one '
        'with tools/export_arch.py and use its config')

    def __init__(self,
                 model: dict,
                 cost_weight: float,
                 target: Optional[float] = None,
                 cost: Union[str, PathLike] = 'macs',
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        model = dict(model)
        if data_preprocessor is not None:
            model.setdefault('data_preprocessor', data_preprocessor)
        model = MODELS.build(model)
        super().__init__(model.data_preprocessor, init_cfg)
        self.model = model
        supernets = [m for m in model.modules()
                     if isinstance(m, AutoNLSuperNet)]
        if len(supernets) != 1:
            raise ValueError(
                f'the model of CostAwareModel has {len(supernets)} '
                'AutoNLSuperNets, expected one as its backbone')
        if cost_weight < 0:
            raise ValueError(f'cost_weight is {cost_weight}, expected a '
                             'number from 0 on')
        self.cost_weight = cost_weight
        self.target = target
        supernet, = supernets
        if cost != 'macs':
            supernet.set_cost_model(LatencyTable.from_file(cost))
        unit = supernet.cost_model.unit
        min_cost, max_cost = supernet.cost_range()
        if target is not None and not min_cost <= target <= max_cost:
            raise ValueError(
                f'target is {target:,g} {unit}, but the subnets of this '
                f'space cost {min_cost:,.6g} to {max_cost:,.6g} {unit} at '
                f'{supernet.input_shape[0]}x{supernet.input_shape[1]}')
        self.narrow_budget(1.0)
        supernet.sample_around(target)
        self.train_subnets(())

    @property
    def task_model(self) -> BaseModel:
        """The classifier, detector or segmentor."""
        return self.model

    def describe_for_resume(self, max_iters: int) -> dict:
        """Settings in which a checkpoint of a search and a resumed run must agree.

        Args:
            max_iters (int): Iterations of the run; the phases of a search are shares
                of this number.

        Returns:
            dict: By name, the value, which is plain data, and its meaning.
        """
        space = hashlib.sha256(repr(self.supernet.space).encode()).hexdigest()
        return dict(
            max_iters=(max_iters, 'iterations of the search'),
            target=(self.target, f'{self.supernet.cost_model.unit} as its target'),
            space=(space[:8], 'as the hash of its search space'))

    @property
    def supernet(self) -> AutoNLSuperNet:
        """The supernet inside of the task model."""
        return next(m for m in self.model.modules()
                    if isinstance(m, AutoNLSuperNet))

    def narrow_budget(self, progress: float) -> None:
        """Set the range of allowed costs.

        Args:
            progress (float): From 0, the whole space, to 1, 2% around the
                target; on a logarithmic scale in between.
        """
        if self.target is None:
            return
        min_cost, max_cost = self.supernet.cost_range()
        low = self.target * (1 - TOLERANCE)
        high = self.target * (1 + TOLERANCE)
        self.budget = (low * (min_cost / low)**(1 - progress),
                       high * (max_cost / high)**(1 - progress))

    def enforce_budget(self, force: bool = False) -> None:
        """Bring the cost into the budget.

        Args:
            force (bool): Whether to choose the most important subnet inside of the
                budget even if the active subnet lies in it. Defaults to False.
        """
        if self.target is None:
            return
        low, high = self.budget
        cost = self.supernet.cost().item()
        # the largest subnet may be an ulp above the upper limit
        if force or not low * (1 - 1e-9) <= cost <= high * (1 + 1e-9):
            self.supernet.fit_budget(low, high)

    @contextmanager
    def exported_as(self, subnet: Subnet) -> Iterator[None]:
        """The task model with an exported subnet in place of the supernet.

        It computes the same as the supernet in a fraction of the time. The subnet
        stays the active subnet after the ``with`` block.

        Args:
            subnet (Subnet): The subnet.
        """
        supernet = self.supernet
        supernet.set_active_subnet(subnet)
        name, = [n for n, m in self.model.named_modules() if m is supernet]
        parent, _, child = name.rpartition('.')
        parent = self.model.get_submodule(parent)
        setattr(parent, child, build_subnet(supernet))
        try:
            yield
        finally:
            setattr(parent, child, supernet)

    def train_subnets(self, subnets: Sequence[Subnet],
                      soft_targets: bool = False) -> None:
        """Set the subnets that the next iterations train.

        Args:
            subnets (Sequence[Subnet]): Each subnet is trained on the whole batch; the
                loss is the mean of their losses. Empty for gates.
            soft_targets (bool): Whether the first subnet teaches all other subnets,
                which learn its outputs instead of the annotations. The losses are
                added up, as in BigNAS. Defaults to False.

        Raises:
            ValueError: If ``soft_targets`` is set and the task model has no logits.
        """
        if soft_targets:
            logits_layer(self.model)
        self.step_subnets = subnets
        self.soft_targets = soft_targets

    def _losses_of_subnets(self, inputs, data_samples) -> Dict[str, Tensor]:
        """The losses of all subnets of a step.

        All subnets are in one forward pass and in one backward pass, which distributed
        training, mixed precision and accumulation need. All their activations are in
        memory at the same time.
        """
        first, *others = self.step_subnets
        with self.supernet.run_subnet(first), self._caught() as teacher:
            losses = self.model(inputs, data_samples, mode='loss')
        for subnet in others:
            with self.supernet.run_subnet(subnet), self._caught() as student:
                own = self.model(inputs, data_samples, mode='loss')
            if self.soft_targets:
                loss = soft_loss(student[0], teacher[0])
                losses['loss_soft'] = losses.get('loss_soft', 0) + loss
                continue
            for name in [name for name in own if 'loss' in name]:
                losses[name] = _total(losses[name]) + _total(own[name])
        if not self.soft_targets:
            for name in [name for name in losses if 'loss' in name]:
                losses[name] = _total(losses[name]) / len(self.step_subnets)
        return losses

    def _caught(self) -> ContextManager:
        return caught_logits(self.model) if self.soft_targets else nullcontext()

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """As the task model; its losses have ``loss_cost`` and ``cost``.

        Args:
            inputs: As for the task model.
            data_samples: As for the task model.
            mode (str): ``'loss'``, ``'predict'`` or ``'tensor'``.
        """
        if mode != 'loss':
            return self.model(inputs, data_samples, mode=mode)
        if self.step_subnets:
            losses = self._losses_of_subnets(inputs, data_samples)
            # No gate moves, so the cost is no objective. The loss is zero, because
            # distributed training waits for the thresholds' gradient.
            losses['loss_cost'] = self.supernet.gate_state.threshold.sum() * 0
            with torch.no_grad():
                losses['cost'] = self.supernet.cost()
            return losses
        self.enforce_budget()
        losses = self.model(inputs, data_samples, mode='loss')
        cost = self.supernet.cost()
        if self.target is None:
            penalty = cost.log()
        else:
            penalty = (cost / self.target).log().abs()
        losses['loss_cost'] = self.cost_weight * penalty.float()
        losses['cost'] = cost.detach()
        return losses


def _total(loss: Union[Tensor, Sequence[Tensor]]) -> Tensor:
    """A loss as mmengine's ``parse_losses`` counts it: a mean, or a sum of means."""
    if isinstance(loss, Tensor):
        return loss.mean()
    return sum(part.mean() for part in loss)


def searched_model(runner: Runner) -> CostAwareModel:
    """The model of a search.

    Args:
        runner (Runner): The runner.

    Raises:
        ValueError: If it trains another model.
    """
    model = unwrap_model(runner.model)
    if not isinstance(model, CostAwareModel):
        raise ValueError(
            'a search needs a CostAwareModel to train, but the model is '
            f'a {type(model).__name__}: wrap it, '
            "model=dict(type='autonl_mm.CostAwareModel', model=dict(...), "
            'cost_weight=...)')
    return model


def load_search(model: CostAwareModel, path: str) -> None:
    """Load a search's checkpoint.

    Args:
        model (CostAwareModel): The model of the search's config.
        path (str): The checkpoint.

    Raises:
        BrokenCheckpointError, UnsafeCheckpointError: If the checkpoint cannot be
            loaded.
        ValueError: If the checkpoint is from another search space or model.
    """
    own = model.state_dict()
    state = fit_wrappers(weights_of(load_checkpoint(path), path), own)
    wrong = sorted(k for k in own.keys() | state.keys()
                   if k not in own or k not in state
                   or own[k].shape != state[k].shape)
    if wrong:
        raise ValueError(
            f'{path} does not fit the search space or model of the config: '
            f'{len(wrong)} of {len(own)} tensors are missing, additional or of '
            f'another shape, such as {wrong[0]}. Use the config of the search '
            '(there is a copy in its work dir)')
    model.load_state_dict(state)



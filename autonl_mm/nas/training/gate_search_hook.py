# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""GateSearchHook: the paper's search, which trains thresholds by gradient."""
from typing import Optional

from mmengine.runner import Runner

from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.registry import HOOKS

from .base_search_hook import BaseSearchHook


@HOOKS.register_module()
class GateSearchHook(BaseSearchHook):
    """Search by gates: thresholds are trained, then candidates are tried.

    All gates are on at first, so the largest subnet is trained. During the warm-up the
    thresholds are held. Their gradients still reach the optimiser: its averages would
    otherwise start from zero and make the first steps too large. After the warm-up and
    until ``freeze_at`` the task's loss and the cost's loss train the thresholds. Give
    them a learning rate with which they reach the target in this time. At ``freeze_at``
    the subnet of the gates, brought to the target, is the first candidate.

    **Importance.** With a ``sample_rate``, some iterations train a sampled subnet, see
    :class:`GateState`, which measures the importance of each part. The rate falls
    during the warm-up from ``warmup_sample_rate``. Thresholds then do not have to reach
    the target: whenever the cost leaves a budget, which narrows from the whole space to
    the target, the most important subnet inside of the budget is chosen.

    Args:
        warmup (float): Share of the iterations in which thresholds are held.
            Defaults to 0.6.
        freeze_at (float): Share of the iterations after which the subnet is chosen.
            Defaults to 0.9.
        warmup_sample_rate (float): Probability of a sampled subnet at the start.
            Defaults to 0.
        sample_rate (float): Probability after the warm-up. Defaults to 0, the paper's
            rule.
        candidates (int): As for :class:`CandidateSelection`; 0 for the subnet of the
            gates. Defaults to 256.
        num_samples (int): As for :class:`CandidateSelection`. Defaults to 8192.
        held_out (dict, optional): As for :class:`CandidateSelection`. Defaults to None.

    Raises:
        ValueError, RuntimeError: As :class:`BaseSearchHook`.
    """

    def __init__(self,
                 warmup: float = 0.6,
                 freeze_at: float = 0.9,
                 warmup_sample_rate: float = 0.0,
                 sample_rate: float = 0.0,
                 candidates: int = 256,
                 num_samples: int = 8192,
                 held_out: Optional[dict] = None):
        super().__init__(freeze_at, candidates, num_samples, held_out)
        if not 0 <= warmup <= freeze_at:
            raise ValueError(f'warmup is {warmup} and freeze_at is {freeze_at}, '
                             'expected 0 <= warmup <= freeze_at <= 1')
        for name, rate in (('warmup_sample_rate', warmup_sample_rate),
                           ('sample_rate', sample_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f'{name} is {rate}, expected a probability '
                                 'below 1')
        self.warmup = warmup
        self.warmup_sample_rate = warmup_sample_rate
        self.sample_rate = sample_rate
        self.loss_scale = 1.0

    def rate(self, progress: float) -> float:
        """Probability of a sampled subnet after a share of the iterations."""
        if progress < self.warmup:
            share = progress / self.warmup
            return self.warmup_sample_rate + share * (
                self.sample_rate - self.warmup_sample_rate)
        return self.sample_rate

    def _trains_thresholds(self, progress: float) -> bool:
        return self.warmup <= progress < self.freeze_at

    def _set_subnets(self, runner: Runner, progress: float, seed: int) -> None:
        self.supernet.sample_gates(self.rate(progress), seed)
        self._narrow(progress)
        if not self._trains_thresholds(progress):
            self.model.enforce_budget()
        # The scaler may change the scale at the end of the iteration.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.loss_scale = scaler.get_scale() if scaler else 1.0

    def _narrow(self, progress: float) -> None:
        if not self.sample_rate:
            # Before the choice only gradients move the thresholds.
            self.model.narrow_budget(float(progress >= self.freeze_at))
            return
        span = max(self.freeze_at - self.warmup, 1e-9)
        self.model.narrow_budget(
            min(max((progress - self.warmup) / span, 0.0), 1.0))

    def _first_candidate(self) -> Subnet:
        self.model.narrow_budget(1.0)
        self.model.enforce_budget(force=True)
        return self.supernet.active_subnet()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Measure importance, then as the base class."""
        self.supernet.gate_state.average_importance(self.loss_scale)
        self.supernet.gate_state.stop_sampling()
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _record(self, runner: Runner, kind: str, number: int, iters: int) -> None:
        self._narrow(iters / runner.max_iters)
        self.model.enforce_budget()
        super()._record(runner, kind, number, iters)

    def after_train(self, runner: Runner) -> None:
        """Warn if every gate is on, or if every gate is off."""
        chosen = [gate['choice'] for gate in self.supernet.gates().values()]
        options = [gate['options'] for gate in self.supernet.gates().values()]
        for where, end, remedy in ((-1, 'on', 'raise'), (0, 'off', 'lower')):
            if chosen == [o[where] for o in options]:
                runner.logger.warning(
                    f'The search ended with every gate {end}, so it chose '
                    f'nothing. Give CostAwareModel a target, {remedy} its '
                    'cost_weight, or give the thresholds another learning '
                    'rate.')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a search adds to training: its schedule, its records, its resume."""
import json
from pathlib import Path
from typing import Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed

from autonl_mm.checkpoint import write_whole
from autonl_mm.registry import HOOKS

from .cost_aware_model import CostAwareModel, unwrap_model
from .evolution import evolution_search
from .proxy_loss import ProxyLoss
from .supernet import AutoNLSuperNet


@HOOKS.register_module()
class SearchHook(Hook):
    """Schedule and records of a search with a :class:`CostAwareModel`.

    **Schedule.** Some iterations train a network that is sampled, see
    :class:`GateState`, at a rate that falls during the warm-up from
    ``warmup_sample_rate`` to ``sample_rate``: since all gates are on at first,
    indicators are dropped, as in Single-Path NAS. During the warm-up the
    thresholds are held. Their gradients reach the optimiser all the same, whose
    averages would otherwise start from zero and let the first steps leap. From
    then on to ``freeze_at`` thresholds move and a target's budget narrows; a
    ``sample_rate`` of 0 is the paper's rule. At ``freeze_at`` the network for
    the target is chosen; then thresholds are held again, and the network
    trains as it was chosen.

    **The choice.** The importance of each part is measured by itself, and parts
    are less important together than one by one. So the most important network is
    the first of many candidates within 2% of the target, all of them cut from
    the supernet and tried on the same training images, and the one of the
    lowest loss is chosen, see :func:`~autonl_mm.nas.evolution.evolution_search`.
    ``candidates=0`` takes the most important network.

    **Records.** After every epoch one log line with cost, target and the
    decision of every block, ``arch.txt`` and ``gates/epoch_N.json`` in the
    work dir, and the gates' margins to the visualizer.

    **Resume.** Random numbers of an epoch depend on the seed and the epoch
    alone, those of an iteration's gates on the seed and the iteration, so a
    resumed run goes on as if it had not stopped. Workers of a dataloader must
    not persist beyond the epoch for that.

    Args:
        warmup (float): Share of the iterations without moving gates.
            Defaults to 0.6.
        freeze_at (float): Share of the iterations after which nothing is
            sampled and the budget is narrowest. Defaults to 0.9.
        warmup_sample_rate (float): Rate of sampling a network at the start.
            Defaults to 0.5.
        sample_rate (float): Rate after the warm-up. Defaults to 0.25.
        candidates (int): Networks to try besides the most important one.
            Defaults to 256.
        num_samples (int): Training images to try them on, of all ranks
            together. Defaults to 8192.

    Raises:
        ValueError: If an argument is out of range, or the model to train is
            not a CostAwareModel.
    """

    # Before PreciseBNHook and CheckpointHook, which need the gates that were chosen.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 warmup: float = 0.6,
                 freeze_at: float = 0.9,
                 warmup_sample_rate: float = 0.5,
                 sample_rate: float = 0.25,
                 candidates: int = 256,
                 num_samples: int = 8192):
        if not 0 <= warmup <= freeze_at <= 1:
            raise ValueError(f'warmup is {warmup} and freeze_at is {freeze_at}, '
                             'expected 0 <= warmup <= freeze_at <= 1')
        for name, rate in (('warmup_sample_rate', warmup_sample_rate),
                           ('sample_rate', sample_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f'{name} is {rate}, expected a probability '
                                 'below 1')
        if candidates < 0 or num_samples < 1:
            raise ValueError(f'candidates is {candidates} and num_samples is '
                             f'{num_samples}, expected integers of at least 0 and '
                             '1')
        self.warmup = warmup
        self.freeze_at = freeze_at
        self.warmup_sample_rate = warmup_sample_rate
        self.sample_rate = sample_rate
        self.candidates = candidates
        self.num_samples = num_samples

    def rate(self, progress: float) -> float:
        """Rate of sampling networks when a share of the iterations is done."""
        if progress < self.warmup:
            share = progress / self.warmup
            return self.warmup_sample_rate + share * (
                self.sample_rate - self.warmup_sample_rate)
        return self.sample_rate if progress < self.freeze_at else 0.0

    def before_run(self, runner: Runner) -> None:
        """Find the model."""
        model = unwrap_model(runner.model)
        if not isinstance(model, CostAwareModel):
            raise ValueError(
                'SearchHook needs a CostAwareModel to train, but the model is '
                f'a {type(model).__name__}: wrap it, '
                "model=dict(type='autonl_mm.CostAwareModel', model=dict(...), "
                'cost_weight=...)')
        self.model: CostAwareModel = model
        self.supernet: AutoNLSuperNet = model.supernet
        self.choices = None  # until the network is chosen

    def before_train(self, runner: Runner) -> None:
        """Remove the records of epochs that are still to come."""
        if not is_main_process():
            return
        for path in Path(runner.work_dir).glob('gates/epoch_*.json'):
            number = path.stem.split('_')[1]
            if number.isdigit() and int(number) > runner.epoch:
                runner.logger.info(f'search: {path} is of an earlier run and '
                                   'is removed')
                path.unlink()

    def before_train_epoch(self, runner: Runner) -> None:
        """Make the epoch's random numbers depend on seed and epoch alone."""
        set_random_seed(
            runner.seed + runner.epoch,
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Set the budget and the gates of the iteration."""
        progress = runner.iter / runner.max_iters
        self.supernet.sample_gates(
            self.rate(progress),
            seed=runner.seed * 1_000_003 + runner.iter)
        self._narrow(progress)
        # The scaler may change it at the end of the iteration.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.loss_scale = scaler.get_scale() if scaler else 1.0
        self.held = None
        if not self.warmup <= progress < self.freeze_at:
            self.model.enforce_budget()
            self.held = self.supernet.gate_state.threshold.detach().clone()
        if progress >= self.freeze_at and self.choices is None:
            self.choices = self.supernet.choices()

    def _narrow(self, progress: float) -> None:
        span = max(self.freeze_at - self.warmup, 1e-9)
        self.model.narrow_budget(
            min(max((progress - self.warmup) / span, 0.0), 1.0))

    def _choose(self, runner: Runner) -> None:
        self.model.narrow_budget(1.0)
        self.model.enforce_budget(force=True)
        if self.candidates and self.model.target is not None:
            self._try_candidates(runner)
        self.choices = self.supernet.choices()

    def _try_candidates(self, runner: Runner) -> None:
        supernet, blocks = self.supernet, self.supernet.space.blocks
        low, high = self.model.budget
        proxy = ProxyLoss(runner, self.model.model, self.num_samples)
        runner.logger.info(f'search: trying {self.candidates} networks of '
                           f'{low:,.6g} to {high:,.6g} '
                           f'{supernet.cost_model.unit}')

        def losses(choices, start, stop):
            supernet.choose(choices)
            with self.model.exported():
                return proxy.losses(start, stop)

        threshold = supernet.gate_state.threshold
        before = threshold.detach().clone()
        generator = torch.Generator().manual_seed(runner.seed)
        best, loss_before, loss = evolution_search(
            supernet.choices(),
            sample=lambda: supernet.sample(generator),
            allowed=lambda choices: low <= supernet.cost_of(choices) <= high,
            network=lambda choices: tuple(
                block.spec(c) for block, c in zip(blocks, choices)),
            losses=losses,
            batches=len(proxy.batches),
            candidates=self.candidates,
            generator=generator)
        # from where they were, so that no more gates move than have to
        with torch.no_grad():
            threshold.copy_(before)
        supernet.choose(best)
        runner.logger.info(f'search: the most important network has a loss '
                           f'of {loss_before:.4f}, the best one {loss:.4f}')

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Take the gradient of the gates, and let evaluation and recalibration
        of BN see the decided network. It is chosen here when thresholds are held
        from the next iteration on.
        """
        state = self.supernet.gate_state
        state.average_importance(self.loss_scale)
        state.stop_sampling()
        if self.held is not None:
            with torch.no_grad():
                state.threshold.copy_(self.held)
        if self.choices is not None:
            # Weights, and with them what gates compare, go on changing.
            self.supernet.choose(self.choices)
        if (runner.iter / runner.max_iters < self.freeze_at <=
                (runner.iter + 1) / runner.max_iters):
            self._choose(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Bring the cost into the budget and write the records."""
        # The loop counts the epoch's last iteration before this is called.
        progress = runner.iter / runner.max_iters
        self._narrow(progress)
        self.model.enforce_budget()
        epoch = runner.epoch + 1
        arch, gates = self.supernet.arch(), self.supernet.gates()
        cost = self.supernet.cost().item()
        unit = self.supernet.cost_model.unit
        target = self.model.target
        of_target = '' if target is None else f' (target {target:,g} {unit})'
        runner.logger.info(f'search: epoch {epoch}, cost {cost:,.6g} {unit}'
                           f'{of_target}, {describe(self.supernet)}')
        runner.visualizer.add_scalars(
            {
                f'gates/{name}/{option}': margin
                for name, gate in gates.items()
                for option, margin in zip(gate['options'][1:], gate['margin'])
            },
            step=epoch)
        if not is_main_process():
            return
        work_dir = Path(runner.work_dir)
        write_whole(work_dir / 'arch.txt', arch.to_text())
        record = dict(
            epoch=epoch,
            cost=cost,
            target=target,
            unit=unit,
            arch=arch.to_text().splitlines(),
            gates=gates)
        write_whole(work_dir / 'gates' / f'epoch_{epoch}.json',
                    json.dumps(record, indent=1) + '\n')

    def after_train(self, runner: Runner) -> None:
        """Warn of a search that chose nothing."""
        chosen = [gate['choice'] for gate in self.supernet.gates().values()]
        options = [gate['options'] for gate in self.supernet.gates().values()]
        for where, end, remedy in ((-1, 'on', 'raise'), (0, 'off', 'lower')):
            if chosen == [o[where] for o in options]:
                runner.logger.warning(
                    f'The search ended with everything {end}: it chose '
                    f'nothing. Give CostAwareModel a target, {remedy} its '
                    'cost_weight, or give the thresholds another learning '
                    'rate.')


def describe(supernet: AutoNLSuperNet) -> str:
    """Every block's decision in one line.

    Args:
        supernet (AutoNLSuperNet): The supernet.

    Returns:
        str: Blocks as ``stage.block kernel, expand ratio, SE, LightNL``,
        ``-`` for one that is skipped, with bars between stages.
    """
    choices = iter(supernet.choices())
    stages = []
    for i, stage in enumerate(supernet.space.stages, 1):
        words = []
        for j, block in enumerate(stage):
            spec = block.spec(next(choices))
            if spec is None:
                words.append(f'{i}.{j} -')
                continue
            word = f'{i}.{j} k{spec.kernel_size}e{spec.expand_ratio:g}'
            if spec.se_ratio:
                word += f' se{spec.se_ratio:g}'
            if spec.nl_ratio:
                word += f' nl{spec.nl_ratio:g}-{spec.nl_stride}'
            words.append(word)
        stages.append(', '.join(words))
    return ' | '.join(stages)

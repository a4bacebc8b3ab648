# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What the hooks of all searches share: choice, records and resume."""
import json
from pathlib import Path
from typing import Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from autonl_mm.nas.selection.candidates import CandidateSelection
from autonl_mm.nas.selection.choosing import choose, make_goal
from autonl_mm.nas.supernet.export import subnet_text
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.random_state import seed_iterations, set_seed
from autonl_mm.runs.ranks import check_ranks_agree, shared_seed

from .cost_aware_model import searched_model


class BaseSearchHook(Hook):
    """Choice, records and resume of a search with a :class:`CostAwareModel`.

    Subclasses say what an iteration trains before the choice.

    **Choice.** After a share of the iterations, ``freeze_at``, candidates of the target
    cost are tried, see :class:`CandidateSelection`, and the best candidate is chosen.
    Then only the chosen subnet is trained, and thresholds are held.

    **Records.** After every epoch the hook writes one log line with cost, target and
    the decision of every block, ``arch.txt`` and ``gates/epoch_N.json`` in the work
    dir, and the gates' margins in the visualizer. In an iteration-based loop, such as
    mmseg's, it writes the records with every checkpoint, as ``gates/iter_N.json``.

    **Resume.** Random numbers of an epoch depend only on the seed and the epoch, in an
    iteration-based loop only on the seed and the iteration. Random numbers of an
    iteration's subnets always depend only on the seed and the iteration. So a resumed
    run continues as if it had not stopped. For this, workers of a dataloader must not
    persist beyond the epoch.

    Args:
        freeze_at (float): Share of the iterations after which the subnet is chosen.
        candidates (int): As for :class:`CandidateSelection`.
        num_samples (int): As for :class:`CandidateSelection`.
        held_out (dict, optional): As for :class:`CandidateSelection`.

    Raises:
        ValueError: If an argument is out of range, the model to train is not a
            CostAwareModel, held-out images are trained on or evaluated on, or an
            EMAHook is called before this hook.
        RuntimeError: If ranks have different gates or candidates.
    """

    # Before EMAHook, PreciseBNHook and CheckpointHook, which need the chosen subnet.
    priority = 'HIGH'

    def __init__(self, freeze_at: float, candidates: int, num_samples: int,
                 held_out: Optional[dict]):
        if not 0 < freeze_at <= 1:
            raise ValueError(f'freeze_at is {freeze_at}, expected a share of the '
                             'iterations, 0 < freeze_at <= 1')
        self.freeze_at = freeze_at
        self.selection = CandidateSelection(candidates, num_samples, held_out)
        self.chooses = True

    def before_run(self, runner: Runner) -> None:
        """Find the model."""
        self.model = searched_model(runner)
        self.supernet = self.model.supernet
        self.seed = shared_seed(runner)
        self.chosen: Optional[Subnet] = None  # until freeze_at
        self.recorded = None  # number of iterations at the last record

    def before_train(self, runner: Runner) -> None:
        """Remove later records of an earlier run, and seed the iterations."""
        for hook in runner.hooks[:runner.hooks.index(self)]:
            if isinstance(hook, EMAHook):
                raise ValueError(
                    f'custom_hooks: {type(hook).__name__} has the priority '
                    f'{hook.priority!r}, but must be called after '
                    f'{type(self).__name__}, whose priority is {self.priority!r}: give '
                    "it priority='NORMAL'")
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            seed_iterations(runner)
        self.selection.open(runner)
        if not is_main_process():
            return
        done = dict(epoch=runner.epoch, iter=runner.iter)
        for path in Path(runner.work_dir).glob('gates/*.json'):
            kind, _, number = path.stem.partition('_')
            if kind in done and number.isdigit() and int(number) > done[kind]:
                runner.logger.info(f'search: {path} is of an earlier run and '
                                   'is removed')
                path.unlink()

    def before_train_epoch(self, runner: Runner) -> None:
        """Make the epoch's random numbers depend on seed and epoch alone."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            set_seed(runner, self.seed + runner.epoch)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Set what the iteration trains."""
        progress = runner.iter / runner.max_iters
        if self._is_frozen(progress):
            self.chosen = self.chosen or self.supernet.active_subnet()
            self.model.train_subnets([self.chosen])
        else:
            self._set_subnets(runner, progress, self.seed * 1_000_003 + runner.iter)
        self.held = None
        if not self._trains_thresholds(progress):
            self.held = self.supernet.gate_state.threshold.detach().clone()

    def _is_frozen(self, progress: float) -> bool:
        """Whether the subnet was chosen before a share of the iterations."""
        return self.chooses and progress >= self.freeze_at

    def _set_subnets(self, runner: Runner, progress: float, seed: int) -> None:
        """Set what the next iteration trains, before the choice.

        Args:
            runner (Runner): The runner.
            progress (float): Share of the iterations before this one.
            seed (int): Seed of the iteration.
        """
        raise NotImplementedError

    def _trains_thresholds(self, progress: float) -> bool:
        """Whether the iteration after a share of the iterations trains thresholds."""
        return False

    def _first_candidate(self) -> Optional[Subnet]:
        """A subnet to try before all candidates, which are sampled; None for none."""

    def _choose(self, runner: Runner) -> None:
        start = self._first_candidate()
        if self.selection.candidates and self.model.target is not None:
            self._try_candidates(runner, start)
        self.chosen = self.supernet.active_subnet()

    def _try_candidates(self, runner: Runner, start: Optional[Subnet]) -> None:
        supernet, candidates = self.supernet, self.selection.candidates
        goal = make_goal(dict(cost=supernet.cost_table), {}, 'cost', self.model.target)
        low, high = goal.ranges['cost']
        proxy = self.selection.proxy_loss(runner, self.model)
        runner.logger.info(f'search: trying {candidates} subnets of '
                           f'{low:,.6g} to {high:,.6g} '
                           f'{supernet.cost_model.unit} on {proxy.describe_images()}')

        threshold = supernet.gate_state.threshold
        before = threshold.detach().clone()
        best, loss_before, loss = choose(
            goal, supernet.space, proxy.losses, proxy.images, candidates, self.seed,
            start)
        # Candidates moved the thresholds. From their earlier values, the best subnet
        # moves as few as possible.
        with torch.no_grad():
            threshold.copy_(before)
        supernet.set_active_subnet(best)
        runner.logger.info(f'search: the first candidate has a loss of '
                           f'{loss_before:.4f}, the best candidate {loss:.4f}')
        if proxy.batches.is_full:
            runner.logger.info(
                f'search: {len(proxy.batches.kept)} of the batches stayed in memory, '
                'all others were loaded again for each round')

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Make the chosen subnet the active subnet.

        Evaluation and recalibration of BN use the active subnet. At ``freeze_at`` the
        subnet is chosen here.
        """
        if self.held is not None:
            with torch.no_grad():
                self.supernet.gate_state.threshold.copy_(self.held)
        if self.chosen is not None:
            # Weights change, and the values of the gates change with them.
            self.supernet.set_active_subnet(self.chosen)
        if self._is_frozen((runner.iter + 1) / runner.max_iters) and not (
                self._is_frozen(runner.iter / runner.max_iters)):
            self._choose(runner)
        # The loop counts the iteration after this.
        if (isinstance(runner.train_loop, IterBasedTrainLoop)
                and _checkpoint_is_due(runner)):
            self._record(runner, 'iter', runner.iter + 1, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the records."""
        # The loop counts the epoch's last iteration before this is called.
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._record(runner, 'epoch', runner.epoch + 1, runner.iter)
        elif self.recorded != runner.iter:
            self._record(runner, 'iter', runner.iter, runner.iter)

    def _record(self, runner: Runner, kind: str, number: int, iters: int) -> None:
        """Write the records.

        Args:
            runner (Runner): The runner.
            kind (str): ``'epoch'`` or ``'iter'``.
            number (int): Number of finished epochs or iterations.
            iters (int): Number of finished iterations.
        """
        self.recorded = iters
        check_ranks_agree('gates', (self.supernet.gate_state.threshold.tolist(),
                                    self.supernet.active_subnet(),
                                    self.model.step_subnets))
        arch, gates = self.supernet.arch(), self.supernet.gates()
        cost = self.supernet.cost().item()
        unit = self.supernet.cost_model.unit
        target = self.model.target
        of_target = '' if target is None else f' (target {target:,g} {unit})'
        runner.logger.info(f'search: {kind} {number}, cost {cost:,.6g} {unit}'
                           f'{of_target}, {describe(self.supernet)}')
        runner.visualizer.add_scalars(
            {
                f'gates/{name}/{option}': margin
                for name, gate in gates.items()
                for option, margin in zip(gate['options'][1:], gate['margin'])
            },
            step=number)
        if not is_main_process():
            return
        work_dir = Path(runner.work_dir)
        if self.chooses:
            atomic_write(work_dir / 'arch.txt',
                         subnet_text(arch, self.supernet.cfgs))
        record = {
            kind: number,
            **dict(cost=cost, target=target, unit=unit,
                   arch=arch.to_text().splitlines(), gates=gates)
        }
        atomic_write(work_dir / 'gates' / f'{kind}_{number}.json',
                    json.dumps(record, indent=1) + '\n')

    def before_val_epoch(self, runner: Runner) -> None:
        """As :meth:`before_save_checkpoint`."""
        self._copy_gates(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """As :meth:`before_save_checkpoint`."""
        self._copy_gates(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let averaged models have the active subnet.

        EMAHook then exchanges weights. The choice of a subnet is a jump, which averages
        of thresholds and of statistics would follow much later.
        """
        self._copy_gates(runner)

    def _copy_gates(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.ema_model.module.supernet.copy_gates(self.supernet)


def _checkpoint_is_due(runner: Runner) -> bool:
    """Whether a checkpoint is saved after this iteration."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and not hook.by_epoch:
            return (hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
                    or (hook.save_last and hook.is_last_train_iter(runner)))
    return False


def describe(supernet: AutoNLSuperNet) -> str:
    """Every block's decision in one line.

    Args:
        supernet (AutoNLSuperNet): The supernet.

    Returns:
        str: Blocks as ``stage.block kernel, expand ratio, SE, LightNL``,
        ``-`` for a skipped block, with bars between stages.
    """
    choices = iter(supernet.active_subnet())
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

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""SearchHook: schedule, records and resume of a search."""
import json
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import DATASETS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import Dataset

from autonl_mm.datasets.holdout_dataset import count_shared
from autonl_mm.nas.selection.choosing import choose, make_goal
from autonl_mm.nas.selection.proxy_loss import ProxyLoss
from autonl_mm.nas.supernet.export import subnet_text
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.registry import HOOKS
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.model_wrappers import unwrap_model
from autonl_mm.runs.random_state import seed_iterations, set_seed
from autonl_mm.runs.ranks import check_ranks_agree, shared_seed

from .cost_aware_model import CostAwareModel
from .sampling import sandwich_subnets


@HOOKS.register_module()
class SearchHook(Hook):
    """Schedule and records of a search with a :class:`CostAwareModel`.

    **Schedule.** Some iterations train a sampled subnet, see :class:`GateState`. Their
    rate falls during the warm-up from ``warmup_sample_rate`` to ``sample_rate``. All
    gates are on at first, so indicators are dropped, as in Single-Path NAS. During the
    warm-up the thresholds are held. Their gradients still reach the optimiser. Its
    averages would otherwise start from zero and make the first steps too large. After
    the warm-up and until ``freeze_at``, thresholds move and a target's budget narrows.
    A ``sample_rate`` of 0 is the paper's rule. At ``freeze_at`` the subnet for the
    target is chosen. Then thresholds are held again, and only the chosen subnet is
    trained.

    **The choice.** The importance of each part is measured separately, and several
    parts together are less important than the sum of their importances. So the most
    important subnet is only the first of many candidates within 2% of the target. All
    candidates run with the supernet's weights on the same images, and the candidate
    with the lowest loss is chosen, see
    :func:`~autonl_mm.nas.selection.choosing.choose`. ``candidates=0`` chooses the most
    important subnet.

    **Sandwich rule.** With ``subnets`` each iteration before the choice trains this
    number of subnets and no gates: the largest and the cheapest subnet of the space,
    and sampled subnets, each at its own cost (see :meth:`AutoNLSuperNet.run_subnet`).
    Importance is not measured, and thresholds are held. Only the candidates decide.
    Subnets are sampled around the target, or over the whole range of costs without a
    target. Without a target the supernet serves all targets: ``warmup`` and
    ``freeze_at`` are 1, and ``tools/choose_arch.py`` chooses afterwards.

    **Records.** After every epoch the hook writes one log line with cost, target and
    the decision of every block, ``arch.txt`` and ``gates/epoch_N.json`` in the work
    dir, and the gates' margins in the visualizer. In an iteration-based loop, such as
    mmseg's, it writes the records with every checkpoint, as ``gates/iter_N.json``.

    **Resume.** Random numbers of an epoch depend only on the seed and the epoch, in an
    iteration-based loop only on the seed and the iteration. Random numbers of an
    iteration's gates always depend only on the seed and the iteration. So a resumed run
    continues as if it had not stopped. For this, workers of a dataloader must not
    persist beyond the epoch.

    Args:
        warmup (float): Share of the iterations in which gates do not move.
            Defaults to 0.6.
        freeze_at (float): Share of the iterations after which no subnet is sampled and
            the budget is narrowest. Defaults to 0.9.
        warmup_sample_rate (float): Probability of a sampled subnet at the start.
            Defaults to 0.5.
        sample_rate (float): Probability after the warm-up. Defaults to 0.25.
        candidates (int): Subnets to try besides the most important subnet.
            Defaults to 256.
        num_samples (int): Images to try candidates on, of all ranks together.
            Defaults to 8192.
        subnets (int): Subnets that each iteration trains by the sandwich rule, at
            least 2. Defaults to 0, gates.
        soft_targets (bool): Whether the largest subnet teaches all other subnets, which
            learn its outputs instead of the annotations, see
            :func:`~autonl_mm.nas.training.soft_targets.soft_loss`. Defaults to False.
        held_out (dict, optional): Config of a dataset of held-out images, on which
            candidates are tried instead of training images, such as a
            :class:`~autonl_mm.datasets.HoldoutDataset`. Its pipeline must load the
            annotations. Defaults to None.

    Raises:
        ValueError: If an argument is out of range, the model to train is not a
            CostAwareModel, held-out images are trained on or evaluated on, or an
            EMAHook is called before this hook.
        RuntimeError: If ranks have different gates or candidates.
    """

    # Before EMAHook, PreciseBNHook and CheckpointHook, which need the chosen subnet.
    priority = 'HIGH'

    def __init__(self,
                 warmup: float = 0.6,
                 freeze_at: float = 0.9,
                 warmup_sample_rate: float = 0.5,
                 sample_rate: float = 0.25,
                 candidates: int = 256,
                 num_samples: int = 8192,
                 subnets: int = 0,
                 soft_targets: bool = False,
                 held_out: Optional[dict] = None):
        if not 0 <= warmup <= freeze_at <= 1:
            raise ValueError(f'warmup is {warmup} and freeze_at is {freeze_at}, '
                             'expected 0 <= warmup <= freeze_at <= 1')
        for name, rate in (('warmup_sample_rate', warmup_sample_rate),
                           ('sample_rate', sample_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f'{name} is {rate}, expected a probability '
                                 'below 1')
        for name, number, least in (('candidates', candidates, 0),
                                    ('num_samples', num_samples, 1),
                                    ('subnets', subnets, 2 if subnets else 0)):
            if number < least:
                raise ValueError(
                    f'{name} is {number}, expected an integer of at least {least}')
        if soft_targets and not subnets:
            raise ValueError('soft_targets is True, but subnets is 0: set subnets to '
                             'the number of subnets that each iteration trains')
        if subnets and not candidates and freeze_at < 1:
            raise ValueError(
                f'candidates is 0, but with subnets={subnets} only candidates decide '
                'between subnets: set candidates, or subnets=0')
        self.warmup = warmup
        self.freeze_at = freeze_at
        self.warmup_sample_rate = warmup_sample_rate
        self.sample_rate = sample_rate
        self.candidates = candidates
        self.num_samples = num_samples
        self.subnets = subnets
        self.soft_targets = soft_targets
        self.held_out = held_out
        self.chooses = True  # unless the model has no target

    def rate(self, progress: float) -> float:
        """Probability of a sampled subnet after a share of the iterations."""
        if progress < self.warmup:
            share = progress / self.warmup
            return self.warmup_sample_rate + share * (
                self.sample_rate - self.warmup_sample_rate)
        return self.sample_rate if progress < self.freeze_at else 0.0

    def open(self, runner: Runner) -> None:
        """Take the model and the images for candidates from a runner.

        Args:
            runner (Runner): The runner of a training, which may be finished.
        """
        self.before_run(runner)
        self.images = build_held_out(runner, self.held_out)

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
        self.seed = shared_seed(runner)
        self.chosen: Optional[Subnet] = None  # until freeze_at
        self.chooses = model.target is not None or not self.subnets
        if not self.chooses:
            if self.warmup < 1:
                raise ValueError(
                    f'warmup is {self.warmup} and CostAwareModel has no target, but '
                    f'with subnets={self.subnets} a choice needs a target: set target, '
                    'or warmup=1 and freeze_at=1 to train for all targets')
            self.supernet.sample_around(self.supernet.cost_table.levels())
        self.recorded = None  # number of iterations at the last record

    def before_train(self, runner: Runner) -> None:
        """Remove later records of an earlier run, and seed the iterations."""
        for hook in runner.hooks[:runner.hooks.index(self)]:
            if isinstance(hook, EMAHook):
                raise ValueError(
                    f'custom_hooks: {type(hook).__name__} has the priority '
                    f'{hook.priority!r}, but must be called after SearchHook, whose '
                    f"priority is {self.priority!r}: give it priority='NORMAL'")
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            seed_iterations(runner)
        self.images = build_held_out(runner, self.held_out)
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
        """Set the budget and the gates of the iteration."""
        progress = runner.iter / runner.max_iters
        seed = self.seed * 1_000_003 + runner.iter
        if self.subnets:
            self._set_subnets(progress, seed)
        else:
            self.supernet.sample_gates(self.rate(progress), seed)
        self._narrow(progress)
        # The scaler may change the scale at the end of the iteration.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.loss_scale = scaler.get_scale() if scaler else 1.0
        self.held = None
        moves = self.warmup <= progress < self.freeze_at
        if self.subnets or not moves:
            if self.chooses:
                self.model.enforce_budget()
            self.held = self.supernet.gate_state.threshold.detach().clone()
        if progress >= self.freeze_at and self.chosen is None:
            self.chosen = self.supernet.active_subnet()

    def _set_subnets(self, progress: float, seed: int) -> None:
        if progress >= self.freeze_at:
            self.model.train_subnets([self.chosen or self.supernet.active_subnet()])
            return

        def sample(count: int) -> List[Subnet]:
            generator = torch.Generator().manual_seed(seed)
            return [self.supernet.sample_subnet(generator) for _ in range(count)]

        self.model.train_subnets(
            sandwich_subnets(self.supernet.cost_table, self.subnets, sample),
            self.soft_targets)

    def _narrow(self, progress: float) -> None:
        span = max(self.freeze_at - self.warmup, 1e-9)
        self.model.narrow_budget(
            min(max((progress - self.warmup) / span, 0.0), 1.0))

    def _choose(self, runner: Runner) -> None:
        self.model.narrow_budget(1.0)
        self.model.enforce_budget(force=True)
        if self.candidates and self.model.target is not None:
            self._try_candidates(runner)
        self.chosen = self.supernet.active_subnet()

    def proxy_loss(self, runner: Runner) -> ProxyLoss:
        """The losses by which candidates are compared.

        Args:
            runner (Runner): The runner of the training, with its optimiser.
        """
        return ProxyLoss(
            runner, self.model.model, self.model.exported_as, self.num_samples,
            self.images)

    def _try_candidates(self, runner: Runner) -> None:
        supernet = self.supernet
        goal = make_goal(dict(cost=supernet.cost_table), {}, 'cost', self.model.target)
        low, high = goal.ranges['cost']
        proxy = self.proxy_loss(runner)
        runner.logger.info(f'search: trying {self.candidates} subnets of '
                           f'{low:,.6g} to {high:,.6g} '
                           f'{supernet.cost_model.unit} on {describe_images(proxy)}')

        threshold = supernet.gate_state.threshold
        before = threshold.detach().clone()
        best, loss_before, loss = choose(
            goal, supernet.space, proxy.losses, proxy.images, self.candidates,
            self.seed, start=supernet.active_subnet())
        # Candidates moved the thresholds. From their earlier values, the best subnet
        # moves as few as possible.
        with torch.no_grad():
            threshold.copy_(before)
        supernet.set_active_subnet(best)
        runner.logger.info(f'search: the most important subnet has a loss of '
                           f'{loss_before:.4f}, the best subnet {loss:.4f}')
        if proxy.batches.is_full:
            runner.logger.info(
                f'search: {len(proxy.batches.kept)} of the batches stayed in memory, '
                'all others were loaded again for each round')

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Measure importance, and make the chosen subnet the active subnet.

        Evaluation and recalibration of BN use the active subnet. At ``freeze_at`` the
        subnet is chosen here.
        """
        state = self.supernet.gate_state
        state.average_importance(self.loss_scale)
        state.stop_sampling()
        if self.held is not None:
            with torch.no_grad():
                state.threshold.copy_(self.held)
        if self.chosen is not None:
            # Weights change, and the values of the gates change with them.
            self.supernet.set_active_subnet(self.chosen)
        if (runner.iter / runner.max_iters < self.freeze_at <=
                (runner.iter + 1) / runner.max_iters):
            self._choose(runner)
        # The loop counts the iteration after this.
        if (isinstance(runner.train_loop, IterBasedTrainLoop)
                and _checkpoint_is_due(runner)):
            self._record(runner, 'iter', runner.iter + 1, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Bring the cost into the budget and write the records."""
        # The loop counts the epoch's last iteration before this is called.
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._record(runner, 'epoch', runner.epoch + 1, runner.iter)
        elif self.recorded != runner.iter:
            self._record(runner, 'iter', runner.iter, runner.iter)

    def _record(self, runner: Runner, kind: str, number: int, iters: int) -> None:
        """Bring the cost into the budget and write the records.

        Args:
            runner (Runner): The runner.
            kind (str): ``'epoch'`` or ``'iter'``.
            number (int): Number of finished epochs or iterations.
            iters (int): Number of finished iterations.
        """
        self.recorded = iters
        self._narrow(iters / runner.max_iters)
        self.model.enforce_budget()
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

    def after_train(self, runner: Runner) -> None:
        """Warn if every gate is on, or if every gate is off."""
        if not self.chooses:
            runner.logger.info('search: the supernet is trained for all targets, '
                               'choose subnets with tools/choose_arch.py')
            return
        chosen = [gate['choice'] for gate in self.supernet.gates().values()]
        options = [gate['options'] for gate in self.supernet.gates().values()]
        for where, end, remedy in ((-1, 'on', 'raise'), (0, 'off', 'lower')):
            if chosen == [o[where] for o in options]:
                runner.logger.warning(
                    f'The search ended with every gate {end}, so it chose '
                    f'nothing. Give CostAwareModel a target, {remedy} its '
                    'cost_weight, or give the thresholds another learning '
                    'rate.')


def build_held_out(runner: Runner, config: Optional[dict]) -> Optional[Dataset]:
    """Build the dataset of held-out images.

    Args:
        runner (Runner): The runner of the training.
        config (dict, optional): Config of the dataset; None if no images are held out.

    Raises:
        ValueError: If a held-out image is trained on or evaluated on.
    """
    if config is None:
        return None
    dataset = DATASETS.build(config)
    others = dict(train_dataloader=runner.train_dataloader.dataset)
    if runner.val_loop is not None:
        others['val_dataloader'] = runner.val_loop.dataloader.dataset
    for name, other in others.items():
        count = count_shared(dataset, other)
        if count is None:
            runner.logger.warning(
                f'search: images of held_out and of {name} cannot be compared, because '
                'the datasets do not give img_path or img of both: make sure that they '
                'are different images')
        elif count:
            raise ValueError(
                f'at least {count} images of held_out are images of {name} too: keep '
                'them out of training and evaluation, for instance with '
                "autonl_mm.HoldoutDataset, split='val' in held_out and split='train' "
                'in train_dataloader')
    return dataset


def describe_images(proxy: ProxyLoss) -> str:
    """The images on which candidates are tried, for the log.

    Args:
        proxy (ProxyLoss): The losses.
    """
    return (f'{proxy.num_batches} batches of {proxy.batches.batch_size} '
            f'{"held-out" if proxy.held_out else "training"} images')


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

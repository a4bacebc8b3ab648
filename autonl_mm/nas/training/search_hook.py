# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a search adds to training: its schedule, its records, its resume."""
import json
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATASETS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import Dataset

from autonl_mm.datasets.holdout_dataset import count_shared
from autonl_mm.nas.selection.evolution import evolution_search
from autonl_mm.nas.selection.proxy_loss import ProxyLoss
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.registry import HOOKS
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.model_wrappers import unwrap_model
from autonl_mm.runs.random_state import seed_iterations, set_seed

from .cost_aware_model import CostAwareModel
from .sampling import networks_of_step


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
    lowest loss is chosen, see
    :func:`~autonl_mm.nas.selection.evolution.evolution_search`.
    ``candidates=0`` takes the most important network.

    **Whole networks.** With ``networks`` an iteration trains so many networks instead,
    and nothing else before the choice: the largest and the cheapest of the space, and
    sampled ones, each at its own cost (see :meth:`AutoNLSuperNet.as_network`).
    Importance is not measured then, and thresholds are held: all is left to the
    candidates. Networks are sampled around the target, without one over the whole range
    of costs. Without a target the supernet serves all targets: ``warmup`` and
    ``freeze_at`` are 1, and ``tools/choose_arch.py`` chooses afterwards.

    **Records.** After every epoch one log line with cost, target and the
    decision of every block, ``arch.txt`` and ``gates/epoch_N.json`` in the
    work dir, and the gates' margins to the visualizer. In a loop that counts
    iterations, such as mmseg's, with every checkpoint instead, as
    ``gates/iter_N.json``.

    **Resume.** Random numbers of an epoch depend on the seed and the epoch
    alone, or on the seed and the iteration in a loop that counts these; those of an
    iteration's gates always do. So a resumed run goes on as if it had not stopped.
    Workers of a dataloader must not persist beyond the epoch for that.

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
        max_bytes (int): Bytes of these images in memory at a time, for each rank.
            What does not fit is loaded again for each round of candidates.
            Defaults to 4 GiB.
        networks (int): Whole networks that an iteration trains on its batch, at least
            2. Defaults to 0, the gates' rule.
        soft_targets (bool): Whether the others learn what the largest one says
            instead of the annotations, see
            :func:`~autonl_mm.nas.training.soft_targets.soft_loss`. Defaults to False.
        held_out (dict, optional): Config of the dataset of the images on which
            candidates are tried instead of training images, such as a
            :class:`~autonl_mm.datasets.HoldoutDataset`. Its pipeline must load the
            annotations. Defaults to None.

    Raises:
        ValueError: If an argument is out of range, the model to train is
            not a CostAwareModel, or images that are held out are trained on or
            evaluated on.
    """

    # Before PreciseBNHook and CheckpointHook, which need the gates that were chosen.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 warmup: float = 0.6,
                 freeze_at: float = 0.9,
                 warmup_sample_rate: float = 0.5,
                 sample_rate: float = 0.25,
                 candidates: int = 256,
                 num_samples: int = 8192,
                 max_bytes: int = 4 * 2**30,
                 networks: int = 0,
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
                                    ('max_bytes', max_bytes, 1),
                                    ('networks', networks, 2 if networks else 0)):
            if number < least:
                raise ValueError(
                    f'{name} is {number}, expected an integer of at least {least}')
        if soft_targets and not networks:
            raise ValueError('soft_targets is True, but networks is 0: set the number '
                             'of networks that an iteration trains')
        if networks and not candidates and freeze_at < 1:
            raise ValueError(
                f'candidates is 0, but with networks={networks} nothing else tells '
                'networks apart: set candidates, or networks=0')
        self.warmup = warmup
        self.freeze_at = freeze_at
        self.warmup_sample_rate = warmup_sample_rate
        self.sample_rate = sample_rate
        self.candidates = candidates
        self.num_samples = num_samples
        self.max_bytes = max_bytes
        self.networks = networks
        self.soft_targets = soft_targets
        self.held_out = held_out
        self.chooses = True  # unless the model has no target

    def rate(self, progress: float) -> float:
        """Rate of sampling networks when a share of the iterations is done."""
        if progress < self.warmup:
            share = progress / self.warmup
            return self.warmup_sample_rate + share * (
                self.sample_rate - self.warmup_sample_rate)
        return self.sample_rate if progress < self.freeze_at else 0.0

    def open(self, runner: Runner) -> None:
        """Take the model and the images for candidates from a runner.

        Args:
            runner (Runner): Of the training, or of a finished one.
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
        self.choices = None  # until the network is chosen
        self.chooses = model.target is not None or not self.networks
        if not self.chooses:
            if self.warmup < 1:
                raise ValueError(
                    f'warmup is {self.warmup} and CostAwareModel has no target, but '
                    f'with networks={self.networks} only a target is chosen for: set '
                    'a target, or warmup=1 and freeze_at=1 to train for all targets')
            self.supernet.sample_around(self.supernet.cost_table.levels())
        self.recorded = None  # the iterations that were done at the last record

    def before_train(self, runner: Runner) -> None:
        """Remove the records that are still to come, and seed the iterations."""
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
            set_seed(runner, runner.seed + runner.epoch)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Set the budget and the gates of the iteration."""
        progress = runner.iter / runner.max_iters
        seed = runner.seed * 1_000_003 + runner.iter
        if self.networks:
            self._set_networks(runner, progress, seed)
        else:
            self.supernet.sample_gates(self.rate(progress), seed)
        self._narrow(progress)
        # The scaler may change it at the end of the iteration.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.loss_scale = scaler.get_scale() if scaler else 1.0
        self.held = None
        moves = self.warmup <= progress < self.freeze_at
        if self.networks or not moves:
            if self.chooses:
                self.model.enforce_budget()
            self.held = self.supernet.gate_state.threshold.detach().clone()
        if progress >= self.freeze_at and self.choices is None:
            self.choices = self.supernet.choices()

    def _set_networks(self, runner: Runner, progress: float, seed: int) -> None:
        if progress >= self.freeze_at:
            self.model.train_networks([self.choices or self.supernet.choices()])
            return

        def sample(count: int) -> List[Subnet]:
            generator = torch.Generator().manual_seed(seed)
            return [self.supernet.sample(generator) for _ in range(count)]

        self.model.train_networks(
            networks_of_step(self.supernet.cost_table, self.networks, sample),
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
        self.choices = self.supernet.choices()

    def proxy_loss(self, runner: Runner) -> ProxyLoss:
        """The losses that candidates are compared by.

        Args:
            runner (Runner): Of the training, or built for it with its optimiser.
        """
        return ProxyLoss(
            runner, self.model.model, self.model.network, self.num_samples,
            self.max_bytes, self.images)

    def _try_candidates(self, runner: Runner) -> None:
        supernet = self.supernet
        low, high = self.model.budget
        proxy = self.proxy_loss(runner)
        runner.logger.info(f'search: trying {self.candidates} networks of '
                           f'{low:,.6g} to {high:,.6g} '
                           f'{supernet.cost_model.unit} on {describe_images(proxy)}')

        threshold = supernet.gate_state.threshold
        before = threshold.detach().clone()
        generator = torch.Generator().manual_seed(runner.seed)
        best, loss_before, loss = evolution_search(
            supernet.choices(),
            sample=lambda: supernet.sample(generator),
            allowed=lambda choices: low <= supernet.cost_of(choices) <= high,
            network=supernet.space.specs,
            losses=proxy.losses,
            batches=proxy.num_batches,
            candidates=self.candidates,
            generator=generator)
        # from where they were, so that no more gates move than have to
        with torch.no_grad():
            threshold.copy_(before)
        supernet.choose(best)
        runner.logger.info(f'search: the most important network has a loss '
                           f'of {loss_before:.4f}, the best one {loss:.4f}')
        if proxy.tried.is_full:
            runner.logger.info(
                f'search: {len(proxy.tried.kept)} of the batches stayed in memory, the '
                'others were loaded again for each round; a larger max_bytes keeps '
                'more')

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
            number (int): Number of epochs or iterations that are done.
            iters (int): Number of iterations that are done.
        """
        self.recorded = iters
        self._narrow(iters / runner.max_iters)
        self.model.enforce_budget()
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
            atomic_write(work_dir / 'arch.txt', arch.to_text())
        record = {
            kind: number,
            **dict(cost=cost, target=target, unit=unit,
                   arch=arch.to_text().splitlines(), gates=gates)
        }
        atomic_write(work_dir / 'gates' / f'{kind}_{number}.json',
                    json.dumps(record, indent=1) + '\n')

    def after_train(self, runner: Runner) -> None:
        """Warn of a search that chose nothing."""
        if not self.chooses:
            runner.logger.info('search: the supernet is trained for all targets, '
                               'choose for some with tools/choose_arch.py')
            return
        chosen = [gate['choice'] for gate in self.supernet.gates().values()]
        options = [gate['options'] for gate in self.supernet.gates().values()]
        for where, end, remedy in ((-1, 'on', 'raise'), (0, 'off', 'lower')):
            if chosen == [o[where] for o in options]:
                runner.logger.warning(
                    f'The search ended with everything {end}: it chose '
                    f'nothing. Give CostAwareModel a target, {remedy} its '
                    'cost_weight, or give the thresholds another learning '
                    'rate.')


def build_held_out(runner: Runner, config: Optional[dict]) -> Optional[Dataset]:
    """The images on which candidates are tried.

    Args:
        runner (Runner): Of the training.
        config (dict, optional): Of their dataset, None for training images.

    Raises:
        ValueError: If some are trained on or evaluated on.
    """
    if config is None:
        return None
    dataset = DATASETS.build(config)
    others = dict(train_dataloader=runner.train_dataloader.dataset)
    if runner.val_loop is not None:
        others['val_dataloader'] = runner.val_loop.dataloader.dataset
    for name, other in others.items():
        count = count_shared(dataset, other)
        if count:
            raise ValueError(
                f'at least {count} images of held_out are images of {name} too: hold '
                'them out from both, for instance with autonl_mm.HoldoutDataset, '
                "split='val' in held_out and split='train' in train_dataloader")
    return dataset


def describe_images(proxy: ProxyLoss) -> str:
    """What candidates are tried on, for the log.

    Args:
        proxy (ProxyLoss): The losses.
    """
    return (f'{proxy.num_batches} batches of {proxy.tried.batch_size} '
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

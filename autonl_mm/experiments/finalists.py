# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Finalists: subnets that are trained from scratch for a short time, and their file."""
import json
from pathlib import Path
from typing import Callable, Collection, Dict, List, Optional, Sequence, Tuple

from autonl_mm.arch import ArchSpec
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.selection.choosing import Goal, best_candidates, predicted_candidates
from autonl_mm.nas.selection.loss_cache import LossCache
from autonl_mm.nas.selection.loss_predictor import LossPredictor
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.text_files import check_json, read_json

from . import trials
from .cluster import Cluster
from .random_subnets import trial_of

# Subnets with their training losses
Trained = Sequence[Tuple[Subnet, float]]
# A finalist in the file
ROW = dict(goal=str, loss=float, fit=float, subnet=[[int]], arch=[str])
# Iterations between records of a finalist's loss, which are means over the interval
LOG_INTERVAL = 10
# Other seeds than of the trainings that finalists are compared by, which start at 0:
# with the same initial weights and batches, both would scatter alike
FIRST_SEED = 10**6
# First epoch or iteration with an evaluation of a finalist
NEVER = 10**9


class Finalists:
    """The finalists of several goals, trained in rounds.

    Args:
        space (SearchSpace): The space.
        cache (LossCache): The losses of the candidates.
        train (Callable): From subnets to their training losses.
        seed (int): Seed of the samples of further rounds.

    Attributes:
        trained (dict[str, list[tuple[Subnet, float]]]): The finalists and their
            training losses, by the goal's name.
        predictor (LossPredictor, optional): The fit to all finalists; None in the first
            round.
    """

    def __init__(self, space: SearchSpace, cache: LossCache,
                 train: Callable[[Sequence[Subnet]], List[float]], seed: int):
        self.space = space
        self.cache = cache
        self.train = train
        self.seed = seed
        self.trained: Dict[str, List[Tuple[Subnet, float]]] = {}
        self.predictor: Optional[LossPredictor] = None

    def train_more(self, goal: Goal, count: int) -> List[float]:
        """Train more finalists of a goal.

        In the first round the finalists are the best candidates, in further rounds the
        subnets with the lowest predicted losses.

        Args:
            goal (Goal): The goal.
            count (int): Number of finalists; fewer are trained if no more are found.

        Returns:
            list[float]: Training losses of these finalists.
        """
        group = self.trained.setdefault(goal.name, [])
        if self.predictor is None:
            subnets = best_candidates(goal, self.space, self.cache, count)
        else:
            subnets = predicted_candidates(
                goal, self.space, self.predictor, [subnet for subnet, _ in group],
                count, self.seed)
        losses = self.train(subnets)
        group += zip(subnets, losses)
        return losses

    def fit(self) -> LossPredictor:
        """Fit the predictor to all finalists, at the end of a round."""
        self.predictor = fit(list(self.trained.values()), self.space)
        return self.predictor


def train_shortly(tool: Path, config: str, archs: Sequence[ArchSpec], seed: int,
                  work_dir: Path, options: dict, jobs: int, where: Cluster
                  ) -> List[float]:
    """Train finalists from scratch, without evaluation.

    Args:
        tool (Path): ``tools/train.py``.
        config (str): The config for retraining.
        archs (Sequence[ArchSpec]): The finalists.
        seed (int): Seed of the trainings, counted from :data:`FIRST_SEED`.
        work_dir (Path): Folder for the trainings.
        options (dict): Settings that make the trainings short.
        jobs (int): Number of trainings at the same time.
        where (Cluster): The cluster that runs the trainings.

    Returns:
        list[float]: Training loss of each finalist.

    Raises:
        ValueError, RuntimeError: As :func:`trials.train_all`.
    """
    options = {
        'default_hooks.logger.interval': LOG_INTERVAL,
        # with any interval, the last epoch would be evaluated
        'train_cfg.val_begin': NEVER,
        **options,
    }
    runs = [trial_of(config, arch, FIRST_SEED + seed, work_dir, options,
                     read=trials.training_loss) for arch in archs]
    return [result['value'] for result in trials.train_all(tool, runs, jobs, where)]


def fit(groups: Sequence[Trained], space: SearchSpace) -> LossPredictor:
    """The fit to the losses of trained subnets.

    Args:
        groups (Sequence[Sequence[tuple[Subnet, float]]]): Subnets and losses, in
            groups of about the same cost.
        space (SearchSpace): The space.

    Raises:
        ValueError: If no loss is finite.
    """
    return LossPredictor([[(space.specs(subnet), loss) for subnet, loss in group]
                          for group in groups])


def write_finalists(path: Path, groups: Dict[str, Trained], predictor: LossPredictor,
                    space: SearchSpace) -> None:
    """Write the finalists of all goals, in the order in which they were trained.

    Args:
        path (Path): The file.
        groups (dict[str, Sequence[tuple[Subnet, float]]]): Finalists and their
            training losses, by the goal's name.
        predictor (LossPredictor): The fit to all finalists.
        space (SearchSpace): The space.
    """
    rows = [
        dict(goal=name, loss=loss, fit=predictor([space.specs(subnet)])[0],
             subnet=subnet, arch=space.arch(subnet).to_text().splitlines())
        for name, group in groups.items() for subnet, loss in group]
    atomic_write(path, json.dumps(rows, indent=1))


def fit_to_others(path: Path, subnets: Collection[Subnet], space: SearchSpace
                  ) -> List[float]:
    """The losses of subnets, predicted by a fit to the finalists of a file.

    The fit leaves out finalists that are among these subnets.

    Args:
        path (Path): A file of :func:`write_finalists`.
        subnets (Collection[Subnet]): Subnets of about the same cost.
        space (SearchSpace): The space.

    Returns:
        list[float]: Predicted losses, minus the mean of the finalists.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another search space, or has no finite
            loss of another network; names the file.
    """
    asked = {space.specs(subnet) for subnet in subnets}
    groups: Dict[str, List[Tuple[Subnet, float]]] = {}
    for goal, subnet, loss in _read(path, space):
        if space.specs(subnet) not in asked:
            groups.setdefault(goal, []).append((subnet, loss))
    try:
        predictor = fit(list(groups.values()), space)
    except ValueError as e:
        raise ValueError(f'{path}, without the subnets to predict: {e}') from None
    return predictor([space.specs(subnet) for subnet in subnets])


def _read(path: Path, space: SearchSpace) -> List[Tuple[str, Subnet, float]]:
    found = read_json(path)
    check_json(found, [ROW], f'{path} is not the finalists.json of choose_arch.py',
               'give a file that this tool wrote')
    rows = []
    for i, row in enumerate(found):
        subnet = [tuple(block) for block in row['subnet']]
        if not space.has(subnet) or (
                space.arch(subnet).to_text().splitlines() != row['arch']):
            raise ValueError(f'{path} is of another search space: [{i}] is no subnet '
                             "of the config's space")
        rows.append((row['goal'], subnet, float(row['loss'])))
    return rows

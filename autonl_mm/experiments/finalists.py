# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The file of the finalists that choose_arch.py trained, and the fit to them."""
import json
from pathlib import Path
from typing import Collection, Dict, List, Sequence, Tuple

from autonl_mm.nas import SearchSpace
from autonl_mm.nas.selection.loss_predictor import LossPredictor
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.text_files import check_json, read_json

# Networks with the training losses of short trainings
Trained = Sequence[Tuple[Subnet, float]]
# A network in the file
ROW = dict(goal=str, loss=float, fit=float, choices=[[int]], arch=[str])


def fit(groups: Sequence[Trained], space: SearchSpace) -> LossPredictor:
    """The fit to the losses of trained networks.

    Args:
        groups (Sequence[Sequence[tuple[Subnet, float]]]): Networks and losses, in a
            group those of about the same cost.
        space (SearchSpace): The space.

    Raises:
        ValueError: If no loss is finite.
    """
    return LossPredictor([[(space.specs(choices), loss) for choices, loss in group]
                          for group in groups])


def write_finalists(path: Path, groups: Dict[str, Trained], predictor: LossPredictor,
                    space: SearchSpace) -> None:
    """Write the finalists of all goals, in the order in which they were trained.

    Args:
        path (Path): The file.
        groups (dict[str, Sequence[tuple[Subnet, float]]]): By the name of the goal the
            networks and their losses.
        predictor (LossPredictor): The fit to all of them.
        space (SearchSpace): The space.
    """
    rows = [
        dict(goal=name, loss=loss, fit=predictor([space.specs(choices)])[0],
             choices=choices, arch=space.arch(choices).to_text().splitlines())
        for name, group in groups.items() for choices, loss in group]
    atomic_write(path, json.dumps(rows, indent=1))


def fit_to_others(path: Path, networks: Collection[Subnet], space: SearchSpace
                  ) -> List[float]:
    """What the finalists of a file predict of networks.

    Networks that are among the finalists are left out of the fit, so that it knows
    nothing of those that it is asked for.

    Args:
        path (Path): What :func:`write_finalists` wrote.
        networks (Collection[list[tuple[int, ...]]]): Networks of about the same cost.
        space (SearchSpace): The space.

    Returns:
        list[float]: Predicted losses, minus the mean of those that were trained.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another search space, or has no finite loss of
            another network; names the file.
    """
    asked = {space.specs(choices) for choices in networks}
    groups: Dict[str, List[Tuple[Subnet, float]]] = {}
    for goal, choices, loss in _read(path, space):
        if space.specs(choices) not in asked:
            groups.setdefault(goal, []).append((choices, loss))
    try:
        predictor = fit(list(groups.values()), space)
    except ValueError as e:
        raise ValueError(f'{path}, without the networks that are asked for: {e}'
                         ) from None
    return predictor([space.specs(choices) for choices in networks])


def _read(path: Path, space: SearchSpace) -> List[Tuple[str, Subnet, float]]:
    found = read_json(path)
    check_json(found, [ROW], f'{path} is not the finalists.json of choose_arch.py',
               'give one that it wrote')
    rows = []
    for i, row in enumerate(found):
        choices = [tuple(block) for block in row['choices']]
        if not space.has(choices) or (
                space.arch(choices).to_text().splitlines() != row['arch']):
            raise ValueError(f'{path} is of another search space: [{i}] is no network '
                             "of the config's")
        rows.append((row['goal'], choices, float(row['loss'])))
    return rows

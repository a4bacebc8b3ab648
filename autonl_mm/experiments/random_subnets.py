# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Random subnets of a search space, and the training of an architecture."""
import hashlib
import random
from pathlib import Path
from typing import Callable, Optional

from autonl_mm.arch import ArchSpec
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.supernet.space import Subnet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.digest import digest

from .trials import Trial, last_evaluation

# Samples before giving up
TRIES = 100_000


def random_subnet(space: SearchSpace,
                   cost_of: Callable[[Subnet], float],
                   low: float,
                   high: float,
                   rng: random.Random,
                   sampling: str = 'choices') -> Subnet:
    """Sample subnets uniformly until the cost lies in a range.

    Args:
        space (SearchSpace): The search space.
        cost_of (Callable): From a subnet to its cost.
        low (float): Minimum cost.
        high (float): Maximum cost.
        rng (random.Random): Random number generator.
        sampling (str): As for :class:`AutoNLSuperNet`: what is sampled uniformly.
            Defaults to ``'choices'``.

    Returns:
        Subnet: The first sample with such a cost.

    Raises:
        ValueError: If no sample has such a cost.
    """
    by_choices = sampling == 'choices'
    forms = [] if by_choices else [block.forms() for block in space.blocks]
    for _ in range(TRIES):
        if by_choices:
            subnet = [tuple(rng.randrange(n) for n in block.shape)
                      for block in space.blocks]
        else:
            subnet = [rng.choice(own) for own in forms]
        if (by_choices or space.is_packed(subnet)) and low <= cost_of(subnet) <= high:
            return subnet
    raise ValueError(f'none of {TRIES} random subnets costs {low:,.6g} to '
                     f'{high:,.6g}: raise --tolerance, or ask for a cost nearer to '
                     'the middle of the space')


def trial_of(config: str, arch: ArchSpec, seed: int, work_dir: Path, options: dict,
             weights: Optional[Path] = None,
             read: Callable[[Path], dict] = last_evaluation) -> Trial:
    """The training of an architecture.

    Args:
        config (str): The config for retraining.
        arch (ArchSpec): The architecture.
        seed (int): Seed of the training.
        work_dir (Path): The folder for the folders of all runs.
        options (dict): Settings that override the config's.
        weights (Path, optional): Weights at the start. Defaults to None, from scratch.
        read (Callable): As for :class:`Trial`.

    Returns:
        Trial: For :func:`trials.train_all`.
    """
    # The folder is named by the architecture: another comparison in the same work
    # dir can reuse it.
    name = hashlib.sha256(arch.to_text().encode()).hexdigest()[:8]
    name = f'{name}-seed{seed}'
    key, files = dict(arch=arch.to_text(), seed=seed), {}
    if weights is not None:
        key['weights'] = digest(weights)[:8]
        name = f'{name}-from-{key["weights"]}'
        files['load_from'] = weights.resolve()
    out = work_dir / name
    arch_file = out / 'arch.txt'
    return Trial(
        config, out, key, {**options, 'randomness.seed': seed},
        files={**files, 'model.backbone.arch': arch_file},
        prepare=lambda: atomic_write(arch_file, arch.to_text()),
        read=read)

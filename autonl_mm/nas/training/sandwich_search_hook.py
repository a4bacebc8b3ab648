# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""SandwichSearchHook: trains whole subnets, and chooses by candidates alone."""
from typing import Optional

import torch
from mmengine.runner import Runner

from autonl_mm.registry import HOOKS

from .base_search_hook import BaseSearchHook


@HOOKS.register_module()
class SandwichSearchHook(BaseSearchHook):
    """Search by the sandwich rule: subnets are trained, then candidates are tried.

    Each iteration before the choice trains several subnets: the largest and the
    cheapest subnet of the space (Yu and Huang, ICCV 2019, arXiv 1903.05134), and
    sampled subnets, each at its own cost (see :meth:`AutoNLSuperNet.run_subnet`).
    Thresholds are held, and only the candidates decide. Subnets are sampled around the
    target.

    Without a target the supernet serves all targets: subnets are sampled over the whole
    range of costs until the end, and ``tools/choose_arch.py`` chooses afterwards.

    Args:
        freeze_at (float): Share of the iterations after which the subnet is chosen.
            Defaults to 0.75.
        subnets (int): Subnets that each iteration trains, at least 2. Defaults to 4.
        soft_targets (bool): Whether the largest subnet teaches all other subnets, which
            learn its outputs instead of the annotations, see
            :func:`~autonl_mm.nas.training.soft_targets.soft_loss`. Defaults to True.
        candidates (int): As for :class:`CandidateSelection`, at least 1. Defaults to
            256.
        num_samples (int): As for :class:`CandidateSelection`. Defaults to 8192.
        held_out (dict, optional): As for :class:`CandidateSelection`. Defaults to None.

    Raises:
        ValueError, RuntimeError: As :class:`BaseSearchHook`.
    """

    def __init__(self,
                 freeze_at: float = 0.75,
                 subnets: int = 4,
                 soft_targets: bool = True,
                 candidates: int = 256,
                 num_samples: int = 8192,
                 held_out: Optional[dict] = None):
        super().__init__(freeze_at, candidates, num_samples, held_out)
        for name, number, least in (('subnets', subnets, 2),
                                    ('candidates', candidates, 1)):
            if number < least:
                raise ValueError(
                    f'{name} is {number}, expected an integer of at least {least}')
        self.subnets = subnets
        self.soft_targets = soft_targets

    def before_run(self, runner: Runner) -> None:
        """Find the model, and the costs around which subnets are sampled."""
        super().before_run(runner)
        self.chooses = self.model.target is not None
        if not self.chooses:
            self.supernet.sample_around(self.supernet.cost_table.levels())

    def _set_subnets(self, runner: Runner, progress: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sampled = [self.supernet.sample_subnet(generator)
                   for _ in range(self.subnets - 2)]
        self.model.train_subnets(
            [*self.supernet.cost_table.extremes(), *sampled], self.soft_targets)

    def after_train(self, runner: Runner) -> None:
        """Say how to choose, if nothing was chosen."""
        if not self.chooses:
            runner.logger.info('search: the supernet is trained for all targets, '
                               'choose subnets with tools/choose_arch.py')

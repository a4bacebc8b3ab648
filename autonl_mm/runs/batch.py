# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Batches of a run: images per step of the optimiser, and iterations with a step."""
from typing import Any, Optional

from mmengine.optim import OptimWrapperDict


def accumulated_batches(cfg: dict) -> int:
    """Number of batches whose gradients are added up before the optimiser steps.

    Args:
        cfg (dict): Config of a run.
    """
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def images_per_step(cfg: dict, world_size: int) -> Optional[int]:
    """Images per step of the optimiser, over all ranks.

    Args:
        cfg (dict): Config of a run.
        world_size (int): Number of ranks.

    Returns:
        int, optional: None if the config has no fixed batch size.
    """
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not isinstance(batch_size, int):
        return None
    return batch_size * world_size * accumulated_batches(cfg)


def has_stepped(optim_wrapper: Any) -> bool:
    """Whether the optimiser stepped in this iteration.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): After ``train_step``.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        return any(w.should_update() for w in optim_wrapper.values())
    return optim_wrapper.should_update()

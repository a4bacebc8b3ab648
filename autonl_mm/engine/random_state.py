# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""States of all random number generators of a process."""
import random

import numpy as np
import torch


def get_random_state() -> dict:
    """States of the generators of Python, numpy and torch, to be saved."""
    return dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])


def set_random_state(state: dict) -> None:
    """Set the generators.

    Args:
        state (dict): From :func:`get_random_state`, possibly read from a
            checkpoint.
    """
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available() and len(
            state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Weights that were saved from a wrapper of the model.

DDP, DataParallel and averaged models put ``module.`` before the names of all tensors,
torch.compile puts ``_orig_mod.`` before them. Nested wrappers put both before them.
"""
from collections import OrderedDict
from typing import Any, Collection, Dict, Iterable

WRAPPERS = ('module.', '_orig_mod.')
# Counters of averaged models of mmengine and torch
COUNTERS = {'steps', 'n_averaged'}


class MismatchError(ValueError):
    """A checkpoint does not fit the model or the run that loads it."""


def wrapper_prefix(names: Iterable[str]) -> str:
    """The wrappers around all tensors, such as ``'module._orig_mod.'``.

    Args:
        names (Iterable[str]): Names of the tensors. If one name has no wrapper,
            ``module`` is the name of a submodule.

    Returns:
        str: The common start of the names; empty without a wrapper.
    """
    names = [name for name in names if name not in COUNTERS]
    prefix, added = '', 'module.' if names else ''
    while added:
        added = next((w for w in WRAPPERS if all(
            isinstance(n, str) and n.startswith(prefix + w) for n in names)), '')
        prefix += added
    return prefix


def fit_wrappers(state: Dict[str, Any],
                 names: Collection[str] = ()) -> Dict[str, Any]:
    """Rename tensors so that they have the wrappers of a model and no other wrappers.

    Args:
        state (dict[str, Any]): A state dict; it is not changed.
        names (Collection[str]): Names of the model's own tensors. Defaults to none,
            for no wrapper.

    Returns:
        dict[str, Any]: The renamed state dict, or the same object without a change.
    """
    old, new = wrapper_prefix(state), wrapper_prefix(names)
    counters = COUNTERS if old else set()
    if old == new or any(n in names for n in state if n not in counters):
        return state
    fitted = OrderedDict(
        (name, value) if name in counters else (new + name[len(old):], value)
        for name, value in state.items() if name not in counters or name in names)
    # Versions of modules by their names, which have no dot at the end; torch keeps
    # them in an attribute.
    if hasattr(state, '_metadata'):
        modules = {f'{name}.' if name else '': version
                   for name, version in state._metadata.items()}
        fitted._metadata = OrderedDict(
            ((new + name[len(old):])[:-1], version)
            for name, version in modules.items() if name.startswith(old))
    return fitted


def weights_of(checkpoint: Any, source: Any) -> Dict[str, Any]:
    """The tensors of a checkpoint, named as in the model itself.

    Args:
        checkpoint (Any): Content of a file: a dict with ``state_dict``, or a state
            dict alone.
        source (Any): Source of the checkpoint, for the message.

    Returns:
        dict[str, Any]: Tensors by name.

    Raises:
        MismatchError: If it is neither.
    """
    state = checkpoint
    if isinstance(checkpoint, dict):
        state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
        raise MismatchError(f'{source} has no state_dict, expected tensors by name')
    return fit_wrappers(state)

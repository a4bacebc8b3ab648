# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Whether a checkpoint has every tensor that a prediction uses."""
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Collection, Dict, Iterable, Iterator, Optional

from torch.nn import Module, ModuleList, Sequential

from .wrappers import COUNTERS, MismatchError

# Submodules that no prediction uses
TRAINING_ONLY = {'auxiliary_head', 'aux_head', 'ema_model', 'teacher', 'teacher_model'}
# The checkpoint that is being loaded for predictions
_SOURCE: ContextVar[Optional[str]] = ContextVar('source', default=None)


@contextmanager
def for_predictions(source: Any) -> Iterator[None]:
    """Let mmengine refuse weights of another network in the ``with`` block.

    It applies to models that are loaded after
    :func:`~autonl_mm.checkpoint.install`. Outside of the block, a checkpoint may fill a
    part of a model, as in fine-tuning.

    Args:
        source (Any): The checkpoint, for the message.

    Raises:
        MismatchError: If the checkpoint does not fill every tensor that a prediction
            uses, or has more layers than the model.
    """
    token = _SOURCE.set(str(source))
    try:
        yield
    finally:
        _SOURCE.reset(token)


def is_for_predictions() -> bool:
    """Whether weights are loaded for predictions now."""
    return _SOURCE.get() is not None


def check_complete(model: Module, total: int, missing: Iterable[str],
                   unexpected: Iterable[str]) -> None:
    """Refuse weights of another network.

    Args:
        model (nn.Module): The model.
        total (int): Number of its tensors.
        missing (Iterable[str]): Names of its tensors that were not loaded.
        unexpected (Iterable[str]): Names in the checkpoint only.

    Raises:
        MismatchError: If a prediction uses a missing tensor, or an unexpected tensor
            is of a further layer in a list of layers, or of one that the model leaves
            out, such as an optional block.
    """
    missing = [name for name in missing if is_used(model, name)]
    modules = dict(model.named_modules())
    more = [name for name in unexpected
            if is_used(model, name) and _is_left_out(modules, name)]
    for names, problem in (
        (missing, f'{len(missing)} of {total} tensors of the model are missing or have '
         'a size mismatch'),
        (more, f'it has {len(more)} tensors of layers that the model does not have')):
        if names:
            raise MismatchError(
                f'{_SOURCE.get()} has weights of another network than '
                f'{type(model).__name__} of the config: {problem} ({some(names)}). Use '
                'the config that it was trained with (there is a copy in its work dir)')


def is_used(model: Module, name: str) -> bool:
    """Whether a prediction uses a tensor.

    Args:
        model (nn.Module): The model.
        name (str): Name of the tensor.
    """
    parts = name.split('.')
    semi = getattr(model, 'semi_test_cfg', None)
    if semi is not None:  # mmdet's semi-supervised detectors: a student and a teacher
        return parts[0] == semi.get('predict_on', 'teacher')
    return not (TRAINING_ONLY.intersection(parts) or parts[-1] in COUNTERS
                or any(part.startswith('loss_') for part in parts))


def _is_left_out(modules: Dict[str, Module], name: str) -> bool:
    """Whether a tensor is of a layer that the innermost module around it has not."""
    around = name
    while around not in modules:
        around = around.rpartition('.')[0]
    module, part = modules[around], name[len(around):].lstrip('.').split('.')[0]
    return (isinstance(module, (ModuleList, Sequential))
            or getattr(module, part, False) is None)


def some(names: Collection[str]) -> str:
    """The first three names, for a message."""
    return ', '.join(list(names)[:3]) + (', ...' if len(names) > 3 else '')

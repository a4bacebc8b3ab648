# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Loading of checkpoints without running code from them."""
import _codecs
import os.path as osp
import pickle
import re
from pathlib import Path
from typing import Any, Callable, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from .archive import BrokenCheckpointError, check_file
from .config_text import UnsafeCheckpointError, check_config_texts


def _refuse(*args) -> None:
    raise pickle.UnpicklingError(f'GLOBAL {OneCycleParamScheduler.__name__}')


_METHODS = {
    HistoryBuffer: (HistoryBuffer, ('current', 'max', 'mean', 'min')),
    _refuse: (OneCycleParamScheduler, ('_annealing_cos', '_annealing_linear')),
}


def _method(owner: Any, name: str) -> Callable:
    """Stands in for ``builtins.getattr`` in checkpoints.

    HistoryBuffer pickles its statistics methods, and OneCycleLR its annealing
    function, as calls of ``getattr``. With the real ``getattr`` a file could reach
    ``__init__.__globals__``, and from there any code.
    """
    for known, (cls, names) in _METHODS.items():
        if owner is known and name in names:
            return getattr(cls, name)
    owner = getattr(owner, '__name__', type(owner).__name__)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner},{name!r})')


# Taken from objects, because numpy 2 moved them from numpy.core to numpy._core.
_NUMPY_FUNCTIONS = dict(
    _reconstruct=np.empty(0).__reduce__()[0], scalar=np.float64().__reduce__()[0])

# The dtypes of numbers and of text, but not of objects and structures: with a
# forged state numpy would use bytes of the file as pointers.
_DTYPES = dict.fromkeys(type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSU')
_DATA_TYPES = (HistoryBuffer, np.ndarray, *_DTYPES)

# What a checkpoint may use beyond torch's own list. ``getattr`` and OneCycleLR's
# class are replaced by stand-ins with the same names.
SAFE_GLOBALS = [
    *_DATA_TYPES, np.dtype, bytes, bytearray, complex, set, _codecs.encode,
    (_method, 'builtins.getattr'),
    (_refuse, f'{OneCycleParamScheduler.__module__}.'
     f'{OneCycleParamScheduler.__qualname__}'),
] + [(func, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
     for name, func in _NUMPY_FUNCTIONS.items()]


TAR = "torch's old tar format"


def _load(path: str, map_location: Any) -> Any:
    # Checked here because torch's errors for such files differ between versions, and
    # some look like errors of the disk.
    with open(path, 'rb') as file:
        start = file.read(512)
    if start[257:262] == b'ustar':
        raise pickle.UnpicklingError(TAR)
    if not check_file(path) and start[:1] != pickle.PROTO:
        raise EOFError('it does not start like a checkpoint')
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return torch.load(path, map_location, weights_only=True)


def _explain(path: str, error: BaseException) -> BaseException:
    """The error to raise when loading ``path`` failed with ``error``."""
    if isinstance(error, pickle.UnpicklingError) and error.__context__:
        # torch wraps the cause in advice to turn the protection off.
        error = error.__context__
    reason = re.split(r'\.\s|\n', str(error))[0] or type(error).__name__
    name = (re.search(r'GLOBAL (\S+)', reason)
            or re.search(f'(TorchScript|{TAR})', reason))
    if name or re.match('Can only|Trying to|Unsupported', reason):
        return UnsafeCheckpointError(
            f'{path} is refused and nothing of it was run: it asks for '
            f'{name[1] if name else reason}, which could run code. If you trust '
            'it, save only its tensors to a new file with the program it comes '
            'from: torch.save(model.state_dict(), file)')
    if re.search('cuda|device|data location|memory', reason, re.IGNORECASE):
        return error  # not the fault of the file
    return BrokenCheckpointError.of(path,
                                    f'truncated or not a checkpoint ({reason})')


def _load_safetensors(path: str, map_location: Any) -> dict:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError(
            f'{path} needs safetensors: pip install safetensors') from None
    if not isinstance(map_location, (str, torch.device)):
        map_location = 'cpu'  # torch.load also takes functions and dicts
    return load_file(path, device=str(map_location))


def load_checkpoint(path: Union[str, Path], map_location: Any = 'cpu') -> Any:
    """Load a local checkpoint without running any code from it.

    Args:
        path (str or Path): The file. A ``.safetensors`` file needs the package
            safetensors.
        map_location (Any): As in :func:`torch.load`. Defaults to 'cpu'.

    Returns:
        Any: The content of the file, usually a dict. For a ``.safetensors`` file
        ``dict(state_dict=...)``.

    Raises:
        FileNotFoundError: If the file does not exist.
        UnsafeCheckpointError: If it holds anything other than tensors, plain
            Python data, numpy arrays of numbers or text, and HistoryBuffers, or if
            it holds a config text that would run code.
        BrokenCheckpointError: If it is damaged, truncated or not a checkpoint;
            names the member of the archive that is damaged.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'There is no checkpoint file {path}')
    try:
        if str(path).endswith('.safetensors'):
            return dict(state_dict=_load_safetensors(path, map_location))
        content = _load(path, map_location)
    except (OSError, MemoryError, ImportError, BrokenCheckpointError):
        raise
    except Exception as error:
        raise _explain(path, error) from None
    check_config_texts(content, path)
    return content

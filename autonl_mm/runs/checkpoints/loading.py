# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Loading of checkpoints without running code from them."""
import os.path as osp
import pickle
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Union

import torch

from .allow_list import SAFE_GLOBALS, Refused, plain
from .archive import BrokenCheckpointError, check_file
from .config_text import UnsafeCheckpointError, drop_config_texts
from .pickle_check import check_pickles

# torch's list is one for the whole process
_LOCK = threading.RLock()


@contextmanager
def _only_ours() -> Iterator[None]:
    """torch's list of additional names, without names that other code added."""
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(SAFE_GLOBALS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _unsafe(path: str, reason: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f'{path} is refused and nothing of it was run: {reason}. If you trust it, save '
        'only its tensors to a new file with the program it comes from: '
        'torch.save(model.state_dict(), file)')


def _broken(path: str, error: Exception) -> BrokenCheckpointError:
    return BrokenCheckpointError.of(
        path, f'truncated or not a checkpoint ({_first_line(error)})')


def _first_line(error: BaseException) -> str:
    return re.split(r'\.\s|\n', str(error))[0] or type(error).__name__


def _check(path: str) -> None:
    """Refuse files that torch must not read, with the errors of load_checkpoint."""
    try:
        # Checked here because torch's errors for such files differ between versions,
        # and some look like errors of the disk.
        with open(path, 'rb') as file:
            start = file.read(512)
        if start[257:262] == b'ustar':
            raise Refused("it asks for torch's old tar format, which could run code")
        if not check_file(path) and start[:1] != pickle.PROTO:
            raise EOFError('it does not start like a checkpoint')
        check_pickles(path, osp.getsize(path))
    except Refused as e:
        raise _unsafe(path, str(e)) from None
    except (OSError, MemoryError, BrokenCheckpointError):
        raise
    except Exception as e:
        raise _broken(path, e) from None


def _load(path: str, map_location: Any) -> Any:
    if path.endswith('.safetensors'):
        return dict(state_dict=_load_safetensors(path, map_location))
    with _only_ours():
        # a program's own default of mmap would read deflated members as raw bytes
        content = torch.load(path, map_location, weights_only=True, mmap=False)
    return plain(content, {})


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
        ``dict(state_dict=...)``. A config text in it that is not data is dropped,
        with a line in the log.

    Raises:
        FileNotFoundError: If the file does not exist.
        UnsafeCheckpointError: If it holds anything other than dense tensors, plain
            Python data, numpy arrays of numbers or text, and HistoryBuffers.
        BrokenCheckpointError: If it is damaged, truncated or not a checkpoint, or
            if it declares more than a file of its size can hold; names the damaged
            member of the archive.
    """
    path = str(osp.expanduser(path))
    if not osp.isfile(path):
        raise FileNotFoundError(f'There is no checkpoint file {path}')
    if not path.endswith('.safetensors'):
        _check(path)
    try:
        content = _load(path, map_location)
    except pickle.UnpicklingError as e:
        # torch wraps the cause in advice to turn the protection off.
        raise _unsafe(path, _first_line(e.__context__ or e)) from None
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as e:
        if re.search('cuda|device|data location|memory', _first_line(e), re.IGNORECASE):
            raise  # not the fault of the file
        raise _broken(path, e) from None
    drop_config_texts(content, path)
    return content

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checkpoints that cannot run code and are never half-written.

Importing this module makes mmengine read every checkpoint with
:func:`load_checkpoint` (``Runner.resume``, ``load_from``, ``init_cfg``,
inferencers; local files, URLs and model zoo names alike) and write every file
with :class:`AtomicLocalBackend`. Wherever mmengine puts a checkpoint into a model
(``load_from``, ``init_cfg``, resuming, inferencers) it says how many of the model's
tensors were loaded, and fails where none was. :func:`find_resumable` finds the
checkpoint from which a killed run goes on. Config texts inside of checkpoints are
read as data, see :mod:`autonl_mm.config_text`.
"""
import _codecs
import os
import os.path as osp
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple, Union
from urllib.parse import urlparse

import mmengine.infer.infer as mmengine_infer
import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, is_main_process
from mmengine.fileio import FileClient, LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader
from torch import _weights_only_unpickler

from autonl_mm.config_text import (
    UnsafeCheckpointError,
    check_buildable,
    check_config_texts,
    config_texts,
    parse_config_text,
)


class BrokenCheckpointError(RuntimeError):
    """The file is truncated or is no checkpoint."""


def _alias(path: str, func: Callable) -> Callable:
    """``func`` as a function that pickle knows by the name ``path``.

    ``add_safe_globals`` takes (object, name) pairs since torch 2.6 only, whereas
    an object that bears the name itself does for every version.
    """

    def call(*args):
        return func(*args)

    call.__module__, call.__name__ = path.rsplit('.', 1)
    call.__qualname__ = call.__name__
    return call


def _refuse(*args) -> None:
    raise pickle.UnpicklingError(f'GLOBAL {OneCycleParamScheduler.__name__}')


# Stands for the class: a checkpoint may name it but neither call nor build it.
_ONE_CYCLE = _alias(
    f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__qualname__}',
    _refuse)
_METHODS = {
    HistoryBuffer: (HistoryBuffer, ('current', 'max', 'mean', 'min')),
    _ONE_CYCLE:
    (OneCycleParamScheduler, ('_annealing_cos', '_annealing_linear')),
}


def _method(owner: Any, name: str) -> Callable:
    """What a checkpoint gets for ``builtins.getattr``.

    HistoryBuffer pickles its statistics methods, OneCycleLR its annealing
    function as calls of ``getattr``. The real one would lead from there to
    ``__init__.__globals__`` and everywhere.
    """
    for known, (cls, names) in _METHODS.items():
        if owner is known and name in names:
            return getattr(cls, name)
    owner = getattr(owner, '__name__', type(owner).__name__)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner},{name!r})')


# Asked of the objects, because numpy 2 moved them from numpy.core to numpy._core.
_NUMPY_FUNCTIONS = dict(
    _reconstruct=np.empty(0).__reduce__()[0], scalar=np.float64().__reduce__()[0])

# The dtypes of numbers and of text. Those of objects and of structures stay out:
# with a forged state numpy takes bytes of the file for pointers.
_DTYPES = dict.fromkeys(type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSU')
_DATA_TYPES = (HistoryBuffer, np.ndarray, *_DTYPES)

# Empty arrays are pickled with bytes; the rest of the second line is in torch's
# own list from 2.5 or 2.6 on.
_SAFE_GLOBALS = [
    *_DATA_TYPES, np.dtype, _alias('builtins.getattr', _method), _ONE_CYCLE,
    bytes, bytearray, complex, set, _codecs.encode
] + [
    _alias(f'numpy.{core}.multiarray.{name}', func)
    for core in ('core', '_core') for name, func in _NUMPY_FUNCTIONS.items()
]


class _RestrictedUnpickler(pickle._Unpickler):
    """In place of torch's weights-only unpickler where that is too old.

    Before torch 2.4 it has a fixed list and cannot build a HistoryBuffer. It
    takes pickle's Python class, since the C one lets no opcode be overridden.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.allowed = dict(_weights_only_unpickler._get_allowed_globals())
        self.allowed.update((str(dtype), dtype) for dtype in vars(torch).values()
                            if isinstance(dtype, torch.dtype))
        self.allowed.update((f'{obj.__module__}.{obj.__qualname__}', obj)
                            for obj in _SAFE_GLOBALS)

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes the names of Python 2.
        path = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if path not in self.allowed:
            raise pickle.UnpicklingError(f'GLOBAL {path}')
        return self.allowed[path]

    def load_build(self) -> None:
        # pickle sets attributes of anything, of the functions allowed here too.
        built = type(self.stack[-2])
        if built not in (OrderedDict, torch.Tensor, torch.nn.Parameter,
                         *_DATA_TYPES):
            raise pickle.UnpicklingError(f'Can only build data, not {built}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class _RestrictedPickle:
    """What ``torch.load`` needs of a pickle module."""

    Unpickler = _RestrictedUnpickler

    @staticmethod
    def load(file: Any, **kwargs) -> Any:
        return _RestrictedUnpickler(file, **kwargs).load()


def _load_restricted(path: str, map_location: Any) -> Any:
    return torch.load(path, map_location, pickle_module=_RestrictedPickle)


def _load_weights_only(path: str, map_location: Any) -> Any:
    # Each time anew, because anyone may have called clear_safe_globals().
    torch.serialization.add_safe_globals(_SAFE_GLOBALS)
    return torch.load(path, map_location, weights_only=True)


_load = (
    _load_weights_only
    if hasattr(torch.serialization, 'add_safe_globals') else _load_restricted)


def _check_container(path: str) -> None:
    """Refuse the kinds of files that torch must not even open.

    Up to torch 2.5, TorchScript archives and files in the oldest, tar format
    could run code despite ``weights_only=True`` (CVE-2025-32434).
    """
    with open(path, 'rb') as file:
        magic = file.read(4)
    if magic == b'PK\x03\x04':
        # torch's own reader, as others may see other members in a forged file
        if 'constants.pkl' in torch._C.PyTorchFileReader(path).get_all_records():
            raise pickle.UnpicklingError('GLOBAL TorchScript')
    elif magic.strip(b'\0') and tarfile.is_tarfile(path):  # zeros pass for a tar
        raise pickle.UnpicklingError('GLOBAL tar')
    elif magic[:1] != pickle.PROTO:
        raise EOFError('it does not start like a checkpoint')


def _explain(path: str, error: BaseException) -> BaseException:
    """The error to raise where loading ``path`` ended in ``error``."""
    if isinstance(error, pickle.UnpicklingError) and error.__context__:
        # torch wraps the cause in advice to turn the protection off.
        error = error.__context__
    reason = re.split(r'\.\s|\n', str(error))[0] or type(error).__name__
    name = re.search(r'GLOBAL (\S+)', reason)
    if name or re.match('Can only|Trying to|Unsupported', reason):
        return UnsafeCheckpointError(
            f'{path} is refused and nothing of it was run: it asks for '
            f'{name[1] if name else reason}, which could run code. If you trust '
            'it, save its tensors alone to a new file with the program it comes '
            'from: torch.save(model.state_dict(), file)')
    if re.search('cuda|device|data location|memory', reason, re.IGNORECASE):
        return error  # not the fault of the file
    return BrokenCheckpointError(
        f'{path} ({osp.getsize(path)} bytes) is truncated or not a checkpoint '
        f'({reason}). Get it anew, or resume from an earlier one')


def _load_safetensors(path: str, map_location: Any) -> dict:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError(
            f'{path} needs safetensors: pip install safetensors') from None
    if not isinstance(map_location, (str, torch.device)):
        map_location = 'cpu'  # the functions and dicts that torch.load takes
    return load_file(path, device=str(map_location))


def load_checkpoint(path: Union[str, Path], map_location: Any = 'cpu') -> Any:
    """Load a local checkpoint without running any code of it.

    Args:
        path (str or Path): The file; ``.safetensors`` too, for which there
            must be safetensors.
        map_location (Any): As in :func:`torch.load`. Defaults to 'cpu'.

    Returns:
        Any: The content of the file, mostly a dict; of a ``.safetensors`` file
        ``dict(state_dict=...)``.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If it holds more than tensors, plain Python data,
            numpy arrays of numbers or text, and HistoryBuffers, or a config text
            that would run code.
        BrokenCheckpointError: If it is truncated or no checkpoint.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'There is no checkpoint file {path}')
    try:
        if str(path).endswith('.safetensors'):
            return dict(state_dict=_load_safetensors(path, map_location))
        _check_container(path)
        content = _load(path, map_location)
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:
        raise _explain(path, error) from None
    check_config_texts(content, path)
    return content


# mmengine logs the names of its loaders from the 11th letter on. pavi:// needs a
# package that nobody outside has: it fails as a file that is not there.
@CheckpointLoader.register_scheme(prefixes=['', 'pavi://'], force=True)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    return load_checkpoint(filename, map_location)


@CheckpointLoader.register_scheme(
    prefixes=[r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], force=True)
def load_from_ceph(filename: str,
                   map_location: Any = None,
                   backend: str = 'petrel') -> Any:
    storage = get_file_backend(filename, backend_args=dict(backend=backend))
    with storage.get_local_path(filename) as path:
        return load_checkpoint(path, map_location)


@CheckpointLoader.register_scheme(
    prefixes=['open-mmlab://', 'openmmlab://'], force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    name = filename.split('://')[1]
    name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    url = mmengine_checkpoint.get_external_models()[name]
    if not url.startswith(('http://', 'https://')):
        url = osp.join(mmengine_checkpoint._get_mmengine_home(), url)
    return CheckpointLoader.load_checkpoint(url, map_location)


def load_url(url: str,
             model_dir: Optional[str] = None,
             map_location: Any = None,
             progress: bool = True,
             check_hash: bool = False,
             file_name: Optional[str] = None) -> Any:
    """:func:`torch.hub.load_state_dict_from_url`, with the same cache, but safe."""
    model_dir = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
    file_name = file_name or osp.basename(urlparse(url).path)
    path = osp.join(model_dir, file_name)
    if not osp.exists(path):
        os.makedirs(model_dir, exist_ok=True)
        digest = torch.hub.HASH_REGEX.search(file_name) if check_hash else None
        torch.hub.download_url_to_file(
            url, path, digest[1] if digest else None, progress)
    return load_checkpoint(path, map_location)


# Assigned, since http(s)://, torchvision:// and mmcls:// end in one function that
# looks this name up; torch.hub's function loads without protection.
mmengine_checkpoint.load_url = load_url


_load_with_prefix = mmengine_checkpoint._load_checkpoint_with_prefix
_load_into_module = mmengine_checkpoint.load_state_dict


def load_checkpoint_with_prefix(prefix: str,
                                filename: str,
                                map_location: Any = None) -> dict:
    """The tensors of a checkpoint below a prefix, their names without it.

    Args:
        prefix (str): Such as ``'backbone.'`` for a classifier's backbone.
        filename (str): File, URL or model zoo name.
        map_location (Any): As in :func:`torch.load`. Defaults to None.

    Raises:
        ValueError: If no name starts with the prefix; says which do exist.
    """
    try:
        return _load_with_prefix(prefix, filename, map_location)
    except AssertionError:
        state = CheckpointLoader.load_checkpoint(filename, map_location)
        names = sorted({k.split('.')[0] + '.' for k in state.get('state_dict', state)})
        raise ValueError(
            f'{filename} has no tensor whose name starts with {prefix!r}, there are '
            f'{", ".join(names[:8])}: give one of them as init_cfg.prefix, or None to '
            'load the whole file') from None


def load_state_dict(module: torch.nn.Module,
                    state_dict: dict,
                    strict: bool = False,
                    logger: Any = None) -> None:
    """mmengine's ``load_state_dict``, which says how much was loaded.

    It logs ``loaded N of M tensors of CLASS``. BN's counters of batches are left
    out of the count: checkpoints of old lack them, and nothing needs them.

    Args:
        module (nn.Module): What to load into.
        state_dict (dict): The checkpoint's tensors by name.
        strict (bool): Whether names must agree. Defaults to False.
        logger (Any): As in mmengine. Defaults to None.

    Raises:
        ValueError: If the module has tensors and the checkpoint none of them.
    """
    target = module
    if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        target = module.module  # as mmengine does
    own = {
        k: v
        for k, v in target.state_dict(keep_vars=True).items()
        if isinstance(v, torch.Tensor) and not k.endswith('num_batches_tracked')
    }
    # Asked of the tensors, not of names and shapes: modules may rename what they
    # load, and being loaded is being written to.
    before = {k: v._version for k, v in own.items()}
    _load_into_module(module, state_dict, strict, logger)
    loaded = [k for k, v in own.items() if v._version > before[k]]
    name = type(target).__name__
    if own and not loaded:
        def some(names):
            return ', '.join(list(names)[:3]) + ', ...'

        raise ValueError(
            f'none of the {len(own)} tensors of {name} ({some(own)}) is in the '
            f'checkpoint with its shape, whose tensors are {some(state_dict)}. Is it '
            'of another network? For a part of it name the prefix, such as '
            "init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')")
    print_log(f'loaded {len(loaded)} of {len(own)} tensors of {name}', logger)


# Looked up by these names wherever mmengine loads.
mmengine_checkpoint._load_checkpoint_with_prefix = load_checkpoint_with_prefix
mmengine_checkpoint.load_state_dict = load_state_dict


_config_from_string = Config.fromstring
_init_inferred_model = mmengine_infer.BaseInferencer._init_model


def config_from_string(cfg_str: str, file_format: str) -> Config:
    """``Config.fromstring``, which mmengine calls for checkpoints' texts.

    Args:
        cfg_str (str): The text.
        file_format (str): ``'.py'``, ``'.json'``, ``'.yaml'`` or ``'.yml'``.

    Raises:
        UnsafeCheckpointError: If Python has more in it than literals and
            ``dict(...)``.
    """
    if file_format == '.py':
        return Config(parse_config_text(cfg_str))
    return _config_from_string(cfg_str, file_format)


def init_inferred_model(self, cfg, weights=None, device='cpu') -> torch.nn.Module:
    """``BaseInferencer._init_model``, which builds a config out of a checkpoint
    only if that asks for registered classes alone."""
    if weights and not cfg:
        content = CheckpointLoader.load_checkpoint(weights, map_location='cpu')
        for _, text in config_texts(content):
            check_buildable(parse_config_text(text))
    return _init_inferred_model(self, cfg, weights, device)


Config.fromstring = staticmethod(config_from_string)
mmengine_infer.BaseInferencer._init_model = init_inferred_model


@FileClient.register_backend('disk', force=True)
@register_backend('local', force=True, prefixes='')
class AtomicLocalBackend(LocalBackend):
    """Writes a file as a whole or not at all.

    A kill leaves the previous file, and beside it at most a ``.tmp`` which the
    next save overwrites.
    """

    name = LocalBackend.__name__  # which callers compare

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        filepath = osp.realpath(filepath)  # writes through links, as before
        if osp.exists(filepath) and not osp.isfile(filepath):
            return super().put(obj, filepath)  # /dev/stdout, a pipe
        os.makedirs(osp.dirname(filepath), exist_ok=True)
        # mmengine's ranks write some files all at once, each the same one
        partial = f'{filepath}.{get_rank()}.tmp'
        with open(partial, 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, filepath)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


@HOOKS.register_module(name='CheckpointHook', force=True)
class SafeCheckpointHook(CheckpointHook):
    """Removes the oldest checkpoint after the new one is saved, not before.

    mmengine's own leaves none with ``max_keep_ckpts=1`` and a kill in between.
    """

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        oldest = None
        if (0 < self.max_keep_ckpts == len(self.keep_ckpt_ids)
                and self.keep_ckpt_ids[-1] != step):
            oldest = self.keep_ckpt_ids.popleft()
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir,
                                               self.filename_tmpl.format(oldest))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed saves
                self.file_backend.rmtree(path)


def _is_complete(path: str) -> bool:
    """Whether there is such a file and it was written to its end."""
    if not osp.isfile(path):
        return False
    try:
        if zipfile.is_zipfile(path):
            zipfile.ZipFile(path).close()  # reads the directory at the end
        else:
            load_checkpoint(path)
    except (BrokenCheckpointError, zipfile.BadZipFile):
        return False
    except UnsafeCheckpointError:
        pass  # complete: it is refused when it is loaded
    return True


def _list_saved(folder: str) -> List[Tuple[int, float, str, str]]:
    """All (number, time, 'epoch' or 'iter', path) in a folder, latest first."""
    saved = []
    for name in os.listdir(folder) if osp.isdir(folder) else ():
        match = re.fullmatch(r'(epoch|iter)_(\d+)\.pth', name)
        if match:
            path = osp.join(folder, name)
            saved.append((int(match[2]), osp.getmtime(path), match[1], path))
    return sorted(saved, reverse=True)


def find_resumable(work_dir: Union[str, Path]) -> Optional[str]:
    """Find the checkpoint from which a run that was stopped goes on.

    It is the one that mmengine noted in ``last_checkpoint``, looked for in
    ``work_dir`` first, as the folder may have been moved, or a later one that a
    kill kept from being noted. Incomplete files are passed over.

    Args:
        work_dir (str or Path): The ``work_dir`` of the run.

    Returns:
        str, optional: The path, or None if there is no checkpoint.
    """
    note = osp.join(work_dir, 'last_checkpoint')
    last = ''
    if osp.isfile(note):
        last = Path(note).read_text(errors='replace').strip()
    if '://' in last:
        return last  # stored remotely, where only whole files appear
    moved = osp.join(work_dir, osp.basename(last))
    if osp.isfile(moved):
        last = moved

    if not _is_complete(last):
        saved = _list_saved(str(work_dir))
    else:
        # Later by number and by time: a former run in the same folder may have
        # got further, and copying changes times.
        saved = _list_saved(osp.dirname(last))
        noted = [entry for entry in saved if entry[3] == last]
        saved = [
            entry for entry in saved for number, time, kind, _ in noted
            if entry[2] == kind and entry[0] > number and entry[1] >= time
        ] + (noted or [(0, 0., '', last)])
    return next((path for *_, path in saved if _is_complete(path)), None)

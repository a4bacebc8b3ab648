# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Replacements for functions of mmengine, which :func:`install` installs."""
import hashlib
import os
import os.path as osp
import re
from collections import Counter, OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple
from urllib.parse import urlparse

import mmengine.infer.infer as mmengine_infer
import mmengine.runner.checkpoint as mmengine_checkpoint
import mmengine.runner.runner as mmengine_runner
import torch
import yaml
from mmengine.config import Config
from mmengine.fileio import (
    FileClient,
    YamlHandler,
    get_file_backend,
    register_backend,
    register_handler,
)
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader

from autonl_mm.runs.atomic_files import AtomicLocalBackend
from autonl_mm.runs.digest import digest

from .allow_list import SAFE_GLOBALS
from .archive import BrokenCheckpointError
from .completeness import check_complete, for_predictions, is_for_predictions, some
from .config_text import inference_config, parse_config_text
from .loading import load_checkpoint
from .wrappers import MismatchError, fit_wrappers, weights_of, wrapper_prefix

# mmengine's own functions, which some of the replacements call
_load_into_module = mmengine_checkpoint.load_state_dict
_load_average = EMAHook.after_load_checkpoint
_config_from_string = Config.fromstring
_init_inferred_model = mmengine_infer.BaseInferencer._init_model

# torch, timm and OpenMMLab end a file's name with the first digits of its SHA-256.
# Eight digits may also be a date.
_DIGEST = re.compile(r'-(?!20\d{6}\.)([0-9a-f]{8,64})\.[\w.]+$')
# Patterns by which mmengine removes what DDP adds to names
UNWRAPPING = (r'^module\.', r'^module.')


def install() -> None:
    """Make mmengine load checkpoints safely and write files atomically in this process.

    From then on every checkpoint that mmengine, mmpretrain, mmdet or mmseg reads
    (``Runner.resume``, ``load_from``, ``init_cfg``, inferencers; local files, URLs
    and model zoo names) goes through :func:`load_checkpoint`, and config texts in
    it are read as data. Loading logs how many of the model's tensors were found,
    and fails if none was found. Weights that were saved from DDP or torch.compile load
    everywhere. YAML files run no code when mmengine reads them. Local files are written
    completely or not at all.

    Importing ``autonl_mm`` does not do this. The tools of this project call this
    function. A config calls it by
    ``custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])``. A second call
    changes nothing.
    """
    # for code that calls torch.load itself
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
    # mmengine logs the names of its loaders from the 11th letter on. pavi:// needs a
    # package that is not public. Here it fails like a file that does not exist.
    for prefixes, loader in (
        (['', 'pavi://'], load_from_local),
        ([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], load_from_ceph),
        (['open-mmlab://', 'openmmlab://'], load_from_openmmlab)):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)
    # One function loads http(s)://, torchvision:// and mmcls://. It looks up this
    # name, which is torch.hub's function and loads without protection.
    mmengine_checkpoint.load_url = load_url
    # mmengine looks up these names wherever it loads
    mmengine_checkpoint._load_checkpoint_with_prefix = load_checkpoint_with_prefix
    mmengine_checkpoint.load_state_dict = load_state_dict
    for module in (mmengine_checkpoint, mmengine_runner, mmengine_infer):
        module._load_checkpoint_to_model = load_checkpoint_to_model
    EMAHook.after_load_checkpoint = load_average
    Config.fromstring = staticmethod(config_from_string)
    mmengine_infer.BaseInferencer._init_model = init_inferred_model
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    FileClient.register_backend('disk', AtomicLocalBackend, force=True)
    register_handler(['yaml', 'yml'])(SafeYamlHandler)


class _YamlLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Plain data, and the tuples that mmengine writes."""


_YamlLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple',
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


class SafeYamlHandler(YamlHandler):
    """mmengine's handler of YAML files, without Python objects.

    mmengine's own loader makes and calls any object that a file names.
    """

    def load_from_fileobj(self, file, **kwargs):
        return super().load_from_fileobj(file, **{'Loader': _YamlLoader, **kwargs})


def load_from_local(filename: str, map_location: Any = None) -> Any:
    return load_checkpoint(filename, map_location)


def load_from_ceph(filename: str,
                   map_location: Any = None,
                   backend: str = 'petrel') -> Any:
    storage = get_file_backend(filename, backend_args=dict(backend=backend))
    with storage.get_local_path(filename) as path:
        return load_checkpoint(path, map_location)


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
    """:func:`torch.hub.load_state_dict_from_url`, with the same cache, but safe.

    Each URL has a separate file in the cache, named by a digest of the URL and the
    file's name. A digest in the file's name is always verified, as if ``check_hash``
    was set.

    Raises:
        BrokenCheckpointError: If the downloaded file does not have the digest in its
            name, or is broken. The file is not kept, so the next call downloads it
            again.
        OSError: If it cannot be downloaded; says as which file to save it by hand.
    """
    model_dir = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
    file_name = file_name or osp.basename(urlparse(url).path)
    # two sources may have different files of the same name
    source = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = osp.join(model_dir, f'{source}-{file_name}')
    match = _DIGEST.search(file_name)
    expected = match[1] if match else ''
    if not osp.exists(path):
        os.makedirs(model_dir, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path, expected or None, progress)
        except RuntimeError as e:
            raise BrokenCheckpointError(
                f'{url} is not the file that its name says: {e}. If you trust it, '
                'download it and set the path of the file instead') from None
        except OSError as e:
            raise OSError(
                f'{url} cannot be downloaded ({e}): download it where there is a '
                f'connection, and save it as {path}') from None
    elif expected and not (found := digest(Path(path))).startswith(expected):
        raise BrokenCheckpointError(
            f'{path} is not the file of {url}: its SHA-256 is {found}. Remove it')
    try:
        return load_checkpoint(path, map_location)
    except BrokenCheckpointError:
        # torch.hub does not tell a broken connection from the end of the file
        Path(path).unlink(missing_ok=True)
        raise


def load_checkpoint_with_prefix(prefix: str,
                                filename: str,
                                map_location: Any = None) -> dict:
    """Tensors of a checkpoint whose names start with a prefix.

    Args:
        prefix (str): Such as ``'backbone.'`` for a classifier's backbone, with or
            without the names of wrappers before it.
        filename (str): File, URL or model zoo name.
        map_location (Any): As in :func:`torch.load`. Defaults to None.

    Returns:
        dict: Tensors by name, the names without the prefix.

    Raises:
        MismatchError: If no name starts with the prefix; lists the prefixes that
            exist.
    """
    weights = weights_of(
        CheckpointLoader.load_checkpoint(filename, map_location), filename)
    dotted = prefix if prefix.endswith('.') else f'{prefix}.'
    for start in (dotted, dotted[len(wrapper_prefix([dotted])):]):
        part = {k[len(start):]: v for k, v in weights.items() if k.startswith(start)}
        if part:
            return fit_wrappers(part)
    names = sorted({f'{k.split(".")[0]}.' for k in weights if '.' in k})
    raise MismatchError(
        f'{filename} has no tensor whose name starts with {prefix!r}, only with '
        f'{", ".join(names[:8]) or "names without a prefix"}: set one of these as '
        'init_cfg.prefix, or None to load the whole file')


def load_checkpoint_to_model(model: torch.nn.Module,
                             checkpoint: dict,
                             strict: bool = False,
                             logger: Any = None,
                             revise_keys: Sequence[Tuple[str, str]] = ()) -> dict:
    """mmengine's ``_load_checkpoint_to_model``, with another removal of wrappers.

    mmengine removes ``module.`` from each name that starts with it. Its runner removes
    ``module`` and any further letter, as in ``modules.0.weight``. Submodules with such
    names would not be loaded.

    Args:
        model (nn.Module): The model to load into.
        checkpoint (dict): Content of a file.
        strict (bool): Whether the names must agree. Defaults to False.
        logger (Any): As in mmengine. Defaults to None.
        revise_keys (Sequence[tuple[str, str]]): Patterns in names and their
            replacements. Defaults to none.

    Returns:
        dict: The checkpoint.
    """
    state = weights_of(checkpoint, 'the checkpoint')
    for pattern, replacement in revise_keys:
        if pattern not in UNWRAPPING:
            metadata = getattr(state, '_metadata', OrderedDict())
            state = OrderedDict(
                (re.sub(pattern, replacement, k), v) for k, v in state.items())
            state._metadata = metadata
    load_state_dict(model, state, strict, logger)
    return checkpoint


def load_average(self, runner: Any, checkpoint: dict) -> None:
    """``EMAHook.after_load_checkpoint``, also for weights that were saved from a
    wrapper, and for a file with weights only."""
    names = self.ema_model.module.state_dict()
    checkpoint['state_dict'] = fit_wrappers(
        weights_of(checkpoint, runner._load_from), names)
    if 'ema_state_dict' in checkpoint:
        checkpoint['ema_state_dict'] = fit_wrappers(
            checkpoint['ema_state_dict'], self.ema_model.state_dict())
    _load_average(self, runner, checkpoint)


def load_state_dict(module: torch.nn.Module,
                    state_dict: dict,
                    strict: bool = False,
                    logger: Any = None) -> None:
    """mmengine's ``load_state_dict``, which also logs the number of loaded tensors.

    It logs ``loaded N of M tensors of CLASS`` and, in a second line, the submodules
    with tensors that start anew. BN's batch counters are not counted: old checkpoints
    lack them, and nothing needs them. Wrappers may differ between the names of the
    checkpoint and of the module.

    Args:
        module (nn.Module): The module to load into.
        state_dict (dict): The checkpoint's tensors by name.
        strict (bool): Whether the names must agree. Defaults to False.
        logger (Any): As in mmengine. Defaults to None.

    Raises:
        MismatchError: If the module has tensors and none of them is in the
            checkpoint; says which prefix would fit. In a block of
            :func:`for_predictions`, also if a prediction uses another tensor.
    """
    target = module
    if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
        target = module.module  # as mmengine does
    own = target.state_dict(keep_vars=True)
    state_dict = fit_wrappers(state_dict, own)
    own = {
        k: v
        for k, v in own.items()
        if isinstance(v, torch.Tensor) and not k.endswith('num_batches_tracked')
    }
    # Writing to a loaded tensor changes its version. Names are not enough, because
    # modules may rename tensors when they load them.
    before = {k: v._version for k, v in own.items()}
    predicting, keys = is_for_predictions(), []
    hook = target.register_load_state_dict_post_hook(
        lambda _, found: keys.append(found))
    try:  # check_complete says in one line what mmengine logs by name
        _load_into_module(
            module, state_dict, strict, 'silent' if predicting else logger)
    finally:
        hook.remove()
    loaded = {k for k, v in own.items() if v._version > before[k]}
    name = type(target).__name__
    if own and not loaded:
        first = next(iter(own))
        prefixes = (k[:-len(first)] for k in state_dict if k.endswith(f'.{first}'))
        prefix = next((p for p in prefixes if all(p + k in state_dict for k in own)),
                      None)
        advice = 'Is it from another network?' if prefix is None else (
            f"To load a part of it: init_cfg=dict(type='Pretrained', checkpoint=..., "
            f'prefix={prefix!r})')
        raise MismatchError(
            f'none of the {len(own)} tensors of {name} ({some(own)}) is in the '
            f'checkpoint with the same shape; it has {some(state_dict)}. {advice}')
    missing = [k for k in own if k not in loaded]
    if predicting:
        check_complete(target, len(own), missing, keys[0].unexpected_keys)
    print_log(f'loaded {len(loaded)} of {len(own)} tensors of {name}', logger)
    if missing:
        parts = Counter(k.split('.')[0] for k in missing)
        print_log('not in the checkpoint with the same shape, so they start anew: '
                  + ', '.join(f'{count} tensors of {part}'
                              for part, count in parts.items()), logger)


def config_from_string(cfg_str: str, file_format: str) -> Config:
    """``Config.fromstring``, which mmengine calls for config texts of checkpoints.

    Args:
        cfg_str (str): The text.
        file_format (str): ``'.py'``, ``'.json'``, ``'.yaml'`` or ``'.yml'``.

    Returns:
        Config: The config.

    Raises:
        UnsafeCheckpointError: If a Python text has anything other than literals
            and ``dict(...)``.
    """
    if file_format == '.py':
        return Config(parse_config_text(cfg_str))
    return _config_from_string(cfg_str, file_format)


def init_inferred_model(self, cfg, weights=None, device='cpu') -> torch.nn.Module:
    """``BaseInferencer._init_model``, which takes a config from a checkpoint only as
    :func:`~autonl_mm.runs.checkpoints.config_text.inference_settings` allows."""
    if weights and not cfg:
        content = CheckpointLoader.load_checkpoint(weights, map_location='cpu')
        found = inference_config(content, weights)
        if found is not None:
            cfg.update(found._cfg_dict)
    with for_predictions(weights) if weights else nullcontext():
        return _init_inferred_model(self, cfg, weights, device)

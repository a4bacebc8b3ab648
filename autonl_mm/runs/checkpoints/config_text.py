# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Config texts inside of checkpoints, read as data and never run as code.

mmengine saves the config of a run in its checkpoints as Python source. It executes
this source when a run is resumed (``meta['config']``) or when an inferencer gets
only a checkpoint (``message_hub['runtime_info']['cfg']``, ``meta['cfg']``). So even
a file that holds only tensors and text could run any command. Three measures
prevent this:

- :func:`drop_config_texts` removes a text that does more than set values when the
  checkpoint is loaded. The weights stay usable.
- :func:`parse_config_text` replaces execution. It accepts literals and
  ``dict(...)``.
- :func:`inference_settings` restricts settings, which can ask for code too, such as
  ``type='os.system'`` or a YAML file of class weights. An inferencer gets the model,
  the test pipeline and the visualizer of the text, without settings that load
  weights. The text is refused if a setting could read a file, open a connection or
  import a module.
"""
import ast
import logging
import os.path as osp
import re
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ContextManager, Iterable, Iterator, List, Optional, Set, Tuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import (
    DATASETS,
    MODELS,
    TASK_UTILS,
    TRANSFORMS,
    VISUALIZERS,
    DefaultScope,
    Registry,
)


class UnsafeCheckpointError(RuntimeError):
    """The file asks for something that could run code; nothing of it was run."""


# In characters. The config of a detector of 1,203 classes has about 100,000.
MAX_LENGTH = 4_000_000
# Names that mmengine writes for numbers without a literal
NUMBERS = dict(inf=float('inf'), nan=float('nan'))
# Start of the note that replaces a dropped text. No Python text starts like this.
DROPPED = '<dropped> '

# Packages that a text may import, by naming them as the scope of a type
SCOPES = {'mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'autonl_mm'}
# Registries whose classes an inferencer builds. Others have classes that connect to
# servers, read data sets or load whole models.
BUILT = (MODELS, TASK_UTILS, TRANSFORMS, VISUALIZERS)
# Classes in them that ask a model hub or import by name without a suspicious setting
READERS = {'ATSSVLFusionHead', 'BertModel', 'HuggingFaceClassifier', 'VPD'}
# Types of mmdet and mmpretrain that are in none of these registries. Neither are those
# that mmdet takes from mmcv.ops, such as 'nms' and 'RoIAlign'.
WORDS = {
    'CutMix', 'Mixup', 'ResizeMix', 'conv', 'dilation', 'interpolation_conv',
    'last_conv', 'offset', 'qkv'
}
HUB_NAMES = {
    'model_style', 'name_or_path', 'pretrained_model_name_or_path', 'tokenizer_name'
}
# Not needed with the weights of the checkpoint and the images of the caller
UNNEEDED = {
    'backend_args', 'checkpoint_path', 'file_client_args', 'init_cfg', 'pretrained',
    'save_dir', 'teacher_ckpt', 'vis_backends'
}
# Settings that mmdet and mmpretrain pass to eval()
EVALUATED = {'dtype', 'warp_mode'}
NAME = re.compile(r'(cv2\.)?[A-Za-z_]\w*')
# Paths, URLs, files with a suffix, modules
PATH = re.compile(r'[/\\:]|\.[^\W\d]')
# Values that look like paths but are not: arch of mmpretrain's ConvMixer, target (a
# regular expression) of PluginBackbone
NO_PATH = re.compile(r'arch=\d+/\d+|target=.*')


def _describe(node: ast.AST) -> str:
    line = f'line {node.lineno}: ' if hasattr(node, 'lineno') else ''
    # operators have no source of their own
    code = (ast.unparse(node).splitlines() or [type(node).__name__])[0]
    return line + (code if len(code) <= 60 else code[:57] + '...')


def config_texts(checkpoint: Any) -> Iterator[Tuple[str, dict, str]]:
    """Find the config texts of a checkpoint, in mmengine's order.

    Args:
        checkpoint (Any): The content of a checkpoint file.

    Yields:
        tuple[str, dict, str]: The place, such as ``meta.cfg``, and the dict and the
        key that hold the text.
    """
    for place in ('message_hub.runtime_info', 'meta'):
        node = checkpoint
        for key in place.split('.'):
            node = node.get(key) if isinstance(node, dict) else None
        for key in ('cfg', 'config'):
            if isinstance(node, dict) and isinstance(node.get(key), str):
                yield f'{place}.{key}', node, key


def drop_config_texts(checkpoint: Any, path: str) -> None:
    """Replace config texts that are not data, so that nothing can execute them.

    Logs a line for each text. :func:`parse_config_text` refuses the note that replaces
    it, with the reason.

    Args:
        checkpoint (Any): The content of the file.
        path (str): The file, for the message.
    """
    for place, node, key in config_texts(checkpoint):
        if node[key].startswith(DROPPED):
            continue  # it was dropped before this file was saved
        try:
            _read(node[key])
        except ValueError as e:
            node[key] = f'{DROPPED}{e}, in {osp.basename(path)}'
            print_log(
                f'{path}: the config text in its {place} is dropped and nothing of it '
                f'was run, because it is not plain data ({e})', 'current',
                logging.WARNING)


def _evaluate(node: ast.AST) -> Any:
    """The value of literals and ``dict(...)``; ValueError for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in NUMBERS:
        return NUMBERS[node.id]
    if isinstance(node, ast.List):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item) for item in node.elts)
    if isinstance(node, ast.Set):
        return {_evaluate(item) for item in node.elts}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _evaluate(key): _evaluate(value)
            for key, value in zip(node.keys, node.values)
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
            and node.func.id == 'dict' and all(k.arg for k in node.keywords):
        # mmengine writes dict({'a.b': 1}) if a key is not a name
        parts = [_evaluate(arg) for arg in node.args]
        if len(parts) <= 1 and all(isinstance(part, dict) for part in parts):
            return dict(*parts, **{k.arg: _evaluate(k.value) for k in node.keywords})
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluate(node.operand)
        if isinstance(value, (int, float, complex)):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError(_describe(node))


def _read(text: str) -> dict:
    """The settings of a text; ValueError that gives the reason if it is not data."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f'it has {len(text):,} characters, more than {MAX_LENGTH:,}')
    settings = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 \
                    or not isinstance(node.targets[0], ast.Name) \
                    or node.targets[0].id == '_base_':
                raise ValueError(_describe(node))
            settings[node.targets[0].id] = _evaluate(node.value)
    except (SyntaxError, TypeError) as e:
        raise ValueError(str(e)) from None
    except (RecursionError, MemoryError):
        raise ValueError('it is nested too deeply') from None
    return settings


def parse_config_text(text: str) -> dict:
    """The settings of a config text, without running it.

    Args:
        text (str): Assignments of literals and ``dict(...)``, as in mmengine's
            ``Config.pretty_text``.

    Returns:
        dict: Settings by name.

    Raises:
        UnsafeCheckpointError: If the text has anything else; names the line and
            its source.
    """
    try:
        if not isinstance(text, str):
            raise ValueError(f'it is a {type(text).__name__}')
        if text.startswith(DROPPED):
            raise ValueError(text[len(DROPPED):])
        return _read(text)
    except ValueError as e:
        raise UnsafeCheckpointError(
            f'the config text is refused and nothing of it was run: {e}. Config texts '
            'of checkpoints are read as data, literals and dict(...) only. Give the '
            'config as a file') from None


def _tree(roots: Iterable[Registry]) -> List[Registry]:
    """Registries and all their children."""
    found = list(roots)
    for registry in found:  # the list grows while we go through it
        found.extend(registry.children.values())
    return found


def _scopes() -> Set[str]:
    """Scopes whose packages may be imported, those registered so far among them."""
    return SCOPES | {registry.scope for registry in _tree(BUILT)}


def _load(scope: Any, roots: Iterable[Registry]) -> List[Registry]:
    """Registries and their children, with all classes of a scope."""
    if isinstance(scope, str) and scope in SCOPES:
        with suppress(ImportError):
            import_module(f'{scope}.registry')
    registries = _tree(roots)
    for registry in registries:
        if registry.scope == scope:
            registry.import_from_location()
    return registries


def find_registered(name: str, roots: Iterable[Registry]) -> Any:
    """The class or function with a registered name or a full import path.

    Args:
        name (str): The name. Without a scope, the default scope is searched first.
        roots (Iterable[Registry]): Registries that count, with their children.

    Returns:
        Any: The class or function, or None.
    """
    scope, dot, key = name.partition('.')
    if not dot:
        default = DefaultScope.get_current_instance()
        scope, key = default and default.scope_name, name
    registries = _load(scope, roots)
    registries.sort(key=lambda registry: registry.scope != scope)
    for registry in registries:
        if key in registry.module_dict and (registry.scope == scope or not dot):
            return registry.module_dict[key]
    module, _, key = name.rpartition('.')
    # without getattr, for which some modules import others
    target = getattr(sys.modules.get(module), '__dict__', {}).get(key)
    if any(target is value for r in registries for value in r.module_dict.values()):
        return target
    return None


def _is_module(name: str) -> bool:
    """Whether ``import name`` would run code."""
    if not name.isidentifier() or name in sys.modules:
        return False
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # None: a folder


def _is_type(name: str) -> bool:
    """Whether a name is a class that mmengine finds and that only takes plain data."""
    # mmengine imports names that are not in the registry where it looks
    if name.rpartition('.')[2] in READERS or _is_module(name):
        return False
    ops = ()
    with suppress(ImportError):  # mmcv-lite
        ops = import_module('mmcv.ops').__all__
    return name in WORDS or name in ops or find_registered(name, BUILT) is not None


def _is_harmless(key: Any, value: Any) -> bool:
    """Whether a value is plain data for what an inferencer builds."""
    if key == 'trust_remote_code':
        return not value
    if not isinstance(value, str):
        return not isinstance(value, bytes)  # could be a path
    if key == 'type':
        return _is_type(value)
    if key in ('_scope_', 'default_scope'):
        return value in _scopes()
    if key in EVALUATED:
        return NAME.fullmatch(value) is not None
    is_path = PATH.search(value) and not NO_PATH.fullmatch(f'{key}={value}')
    return not (is_path or key in HUB_NAMES or osp.isfile(value) or _is_module(value))


def check_buildable(node: Any, place: str = '', key: Any = None) -> None:
    """Refuse settings with which a model, transform or visualizer would run other code.

    mmengine's registries import and call anything that ``type`` names, registered or
    not. Libraries pass some settings to ``eval``, open files and URLs, and run code
    from model hubs.

    Args:
        node (Any): The settings or a part of them.
        place (str): Where they are, for the message. Defaults to ''.
        key (Any): The innermost key there. Defaults to None.

    Raises:
        UnsafeCheckpointError: If a setting could read a file, open a connection,
            import a module or run code; names it.
    """
    if isinstance(node, dict):
        _load(node.get('_scope_'), BUILT)
        for name, value in node.items():
            check_buildable(value, f'{place}.{name}' if place else str(name), name)
    elif isinstance(node, (list, tuple, set)):
        for i, value in enumerate(node):
            check_buildable(value, f'{place}.{i}', key)
    elif not _is_harmless(key, node):
        raise UnsafeCheckpointError(
            f"the checkpoint's config is refused and nothing was built: {place}="
            f'{str(node)[:80]!r} is neither a registered type nor plain data, so it '
            'could read a file, open a connection or run code. If you trust it, give '
            'the config as a file')


def _plain(node: Any) -> Any:
    """A copy without the settings that an inferencer does not need."""
    if isinstance(node, dict):
        node = {k: _plain(v) for k, v in node.items() if k not in UNNEEDED}
        if str(node.get('type')).endswith('TIMMBackbone'):
            node['pretrained'] = False  # mmseg's default is a download
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(map(_plain, node))
    return node


def metainfo(dataset: dict) -> dict:
    """Classes and palette of a dataset, which is not built.

    Strings are left out, because mmengine opens them as files.
    """
    known = find_registered(str(dataset.get('type')), [DATASETS])
    own = dataset.get('metainfo')
    return {
        key: value
        for part in (getattr(known, 'METAINFO', None), own) if isinstance(part, dict)
        for key, value in part.items() if not isinstance(value, str)
    }


def inference_settings(settings: dict) -> dict:
    """The part of a checkpoint's config that an inferencer needs, without risks.

    Args:
        settings (dict): The settings of the text.

    Returns:
        dict: ``model``, ``data_preprocessor``, ``default_scope``, ``test_pipeline``,
        ``visualizer``, and ``test_dataloader`` with the pipeline and the metainfo of
        its dataset, which has no data. Settings that load weights or write files are
        left out.

    Raises:
        UnsafeCheckpointError: If there is no model, or as :func:`check_buildable`.
    """
    if not isinstance(settings.get('model'), dict):
        raise UnsafeCheckpointError(
            'the config text has no model. Give the config as a file')
    kept = _plain({
        key: settings[key]
        for key in ('model', 'data_preprocessor', 'default_scope', 'test_pipeline',
                    'visualizer') if key in settings
    })
    loader = settings.get('test_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    if isinstance(dataset, dict):
        kept['test_dataloader'] = dict(
            dataset=dict(pipeline=_plain(dataset.get('pipeline', []))))
    check_buildable(kept)
    if isinstance(dataset, dict):
        kept['test_dataloader']['dataset'].update(
            type='mmengine.dataset.BaseDataset', metainfo=metainfo(dataset))
    return kept


def inference_config(content: Any, source: Any,
                     own_scope: bool = False) -> Optional[Config]:
    """The config in a checkpoint, as far as an inferencer needs it and without risks.

    Args:
        content (Any): Content of the checkpoint.
        source (Any): Its source, for the message.
        own_scope (bool): Whether the model will be built in the config's default
            scope. False for the current default scope, as in an inferencer. Defaults
            to False.

    Returns:
        Config, optional: See :func:`inference_settings`; None if it has no config.

    Raises:
        UnsafeCheckpointError: As :func:`inference_settings`.
    """
    texts = [node[key] for _, node, key in config_texts(content) if key == 'cfg']
    if not texts:
        return None
    # a resumed run keeps the text of the first one in its message hub
    text = min(texts, key=lambda text: text.startswith(DROPPED))
    try:
        settings = parse_config_text(text)
        with _in_scope(settings if own_scope else {}):
            return Config(inference_settings(settings))
    except UnsafeCheckpointError as e:
        raise UnsafeCheckpointError(f'{source}: {e}') from None


def inference_text(cfg: Config) -> Optional[str]:
    """A config's text for :func:`inference_config`, or None if that would refuse it.

    Args:
        cfg (Config): The config.
    """
    try:
        settings = parse_config_text(cfg.pretty_text)
        with _in_scope(settings):
            return Config(inference_settings(settings)).pretty_text
    except UnsafeCheckpointError:
        return None


def _in_scope(settings: dict) -> ContextManager:
    """Search in the settings' default scope, if it is a known one."""
    scope = settings.get('default_scope')
    return DefaultScope.overwrite_default_scope(
        scope if isinstance(scope, str) and scope in _scopes() else None)

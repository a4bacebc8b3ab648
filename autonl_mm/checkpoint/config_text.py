# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Config texts inside of checkpoints, read as data and never run as code.

mmengine saves the config of a run in its checkpoints as Python source. It executes
this source when a run is resumed (``meta['config']``) or when an inferencer gets
only a checkpoint (``message_hub['runtime_info']['cfg']``, ``meta['cfg']``). So even
a file that holds only tensors and text could run any command. Three measures
prevent this:

- :func:`check_config_texts` refuses a checkpoint when it is loaded, for whatever
  purpose, if its text does more than assign values.
- :func:`parse_config_text` replaces execution. It accepts literals and
  ``dict(...)``.
- :func:`check_buildable`: settings can ask for code too, such as
  ``type='os.system'``. An inferencer builds a config from a checkpoint only if all
  types in it are registered.
"""
import ast
import re
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Iterator, List, Set, Tuple

import mmengine.registry
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string


class UnsafeCheckpointError(RuntimeError):
    """The file asks for something that could run code; nothing of it was run."""


# In characters. The config of a detector of 1,203 classes has about 100,000.
MAX_LENGTH = 4_000_000
# Calls that do no harm, if the text does not redefine their names. mmengine writes
# them for settings such as ``out_indices=range(4)``.
HARMLESS_CALLS = {
    'dict', 'list', 'tuple', 'set', 'frozenset', 'range', 'slice', 'int', 'float',
    'complex', 'bool'
}
HARMLESS_NODES = (
    ast.Module, ast.Assign, ast.Expr, ast.Constant, ast.Name, ast.Attribute, ast.List,
    ast.Tuple, ast.Set, ast.Dict, ast.Call, ast.keyword, ast.UnaryOp, ast.USub,
    ast.UAdd, ast.Load, ast.Store)
# Names that mmengine writes for numbers without a literal
NUMBERS = dict(inf=float('inf'), nan=float('nan'))
SCOPES = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'autonl_mm', 'torch'}
# Settings that mmcv, mmdet and mmpretrain pass to eval()
EVALUATED = ('type', 'dtype', 'warp_mode')
NAME = re.compile(r'[A-Za-z_][\w./-]*')


def _parse(text: str) -> ast.Module:
    if len(text) > MAX_LENGTH:
        raise UnsafeCheckpointError(
            f'it has {len(text):,} characters, more than {MAX_LENGTH:,}')
    try:
        return ast.parse(text)
    except (RecursionError, MemoryError):
        raise UnsafeCheckpointError('it is nested too deeply') from None


def _describe(node: ast.AST) -> str:
    line = f'line {node.lineno}: ' if hasattr(node, 'lineno') else ''
    # operators have no source of their own
    code = (ast.unparse(node).splitlines() or [type(node).__name__])[0]
    return line + (code if len(code) <= 60 else code[:57] + '...')


def _find_harm(tree: ast.Module) -> Iterator[ast.AST]:
    """Parts of a source text that could run code or read other files."""
    for node in ast.walk(tree):
        if not isinstance(node, HARMLESS_NODES):
            yield node
        elif isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in HARMLESS_CALLS):
            yield node
        elif isinstance(node, ast.Assign) and any(
                not isinstance(target, ast.Name) or target.id == '_base_'
                or target.id in HARMLESS_CALLS for target in node.targets):
            yield node


def config_texts(checkpoint: Any) -> Iterator[Tuple[str, str]]:
    """Find the config texts of a checkpoint.

    Args:
        checkpoint (Any): The content of a checkpoint file.

    Yields:
        tuple[str, str]: The key, such as ``meta.cfg``, and the text.
    """
    for place in ('meta', 'message_hub.runtime_info'):
        node = checkpoint
        for key in place.split('.'):
            node = node.get(key) if isinstance(node, dict) else None
        for key in ('config', 'cfg'):
            if isinstance(node, dict) and isinstance(node.get(key), str):
                yield f'{place}.{key}', node[key]


def check_config_texts(checkpoint: Any, path: str) -> None:
    """Refuse a checkpoint whose config text would run code when it is executed.

    Args:
        checkpoint (Any): The content of the file.
        path (str): The file, for the message.

    Raises:
        UnsafeCheckpointError: If a text could run code; names the file, the key,
            the line and its source.
    """
    for place, text in config_texts(checkpoint):
        try:
            harm = next(map(_describe, _find_harm(_parse(text))), None)
        except (SyntaxError, ValueError):
            continue  # not Python: it can neither be executed nor parsed
        except UnsafeCheckpointError as e:
            harm = str(e)
        if harm:
            raise UnsafeCheckpointError(
                f'{path} is refused and nothing of it was run: the config text in '
                f'its {place} would run code when it is read ({harm}). If you trust '
                'it, save only its tensors to a new file with the program it comes '
                'from: torch.save(model.state_dict(), file)')


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

    def refuse(reason: str) -> UnsafeCheckpointError:
        return UnsafeCheckpointError(
            f'the config text is refused and nothing of it was run: {reason}. Config '
            'texts of checkpoints are read as data, literals and dict(...) only. Give '
            'the config as a file')

    def evaluate(node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in NUMBERS:
            return NUMBERS[node.id]
        if isinstance(node, ast.List):
            return [evaluate(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(evaluate(item) for item in node.elts)
        if isinstance(node, ast.Set):
            return {evaluate(item) for item in node.elts}
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {
                evaluate(key): evaluate(value)
                for key, value in zip(node.keys, node.values)
            }
        if isinstance(node, ast.Call) and isinstance(
                node.func, ast.Name) and node.func.id == 'dict' and not node.args:
            if all(keyword.arg for keyword in node.keywords):
                return {k.arg: evaluate(k.value) for k in node.keywords}
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            value = evaluate(node.operand)
            if isinstance(value, (int, float, complex)):
                return -value if isinstance(node.op, ast.USub) else value
        raise refuse(_describe(node))

    if not isinstance(text, str):
        raise refuse(f'it is a {type(text).__name__}')
    settings = {}
    try:
        for node in _parse(text).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 \
                    or not isinstance(node.targets[0], ast.Name) \
                    or node.targets[0].id == '_base_':
                raise refuse(_describe(node))
            settings[node.targets[0].id] = evaluate(node.value)
    except (SyntaxError, ValueError, TypeError) as e:
        raise refuse(f'{e}') from None
    except RecursionError:
        raise refuse('it is nested too deeply') from None
    return settings


def _registries() -> List[Registry]:
    """mmengine's registries and all their children."""
    found = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)]
    for registry in found:  # the list grows while we go through it
        found.extend(registry.children.values())
    return found


def _scopes() -> Set[str]:
    """Scopes whose packages may be imported, those registered so far among them."""
    return SCOPES | {r.scope for r in _registries()}


def _is_registered(name: str) -> bool:
    """Whether a ``scope.name`` or a full import path is of a registered class."""
    scope, _, rest = name.partition('.')
    if scope not in _scopes():
        return False
    with suppress(ImportError):
        import_module(f'{scope}.registry')
    registries = _registries()
    for registry in registries:
        if registry.scope == scope:
            registry.import_from_location()
            if rest in registry.module_dict:
                return True
    target = get_object_from_string(name)
    return any(target is known for registry in registries
               for known in registry.module_dict.values())


def check_buildable(node: Any) -> None:
    """Refuse a config from a checkpoint whose settings could run code.

    mmengine's registries import and call whatever ``type`` names, registered or
    not. Libraries also pass some settings to ``eval``, load pickle files, and run
    code from model hubs.

    Args:
        node (Any): The config or a part of it.

    Raises:
        UnsafeCheckpointError: If there is such a setting; names it.
    """

    def refuse(key: str, value: Any) -> None:
        raise UnsafeCheckpointError(
            f"the checkpoint's config is refused and nothing was built: {key}="
            f'{str(value)[:80]!r} could run code. If you trust it, give the config '
            'as a file')

    if isinstance(node, dict):
        for key, value in node.items():
            if key in EVALUATED and isinstance(value, str):
                if not NAME.fullmatch(value):
                    refuse(key, value)
                if key == 'type' and '/' not in value and not (
                        _is_registered(value) if '.' in value else
                        _is_bare_name(value)):
                    refuse(key, value)
            elif key in ('_scope_', 'default_scope') and value is not None:
                if value not in _scopes():
                    refuse(key, value)
            elif key == 'trust_remote_code' and value:
                refuse(key, value)
            check_buildable(value)
    elif isinstance(node, (list, tuple, set)):
        for value in node:
            check_buildable(value)
    elif isinstance(node, str) and node.lower().endswith(('.pkl', '.pickle')):
        refuse('file', node)


def _is_bare_name(name: str) -> bool:
    """Whether a name without a scope is not a module, which would be imported."""
    return any(name in r.module_dict for r in _registries()) or find_spec(name) is None

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Overridden settings of a config that nothing would read."""
import difflib
import inspect
import logging
from typing import Any, Iterable, Iterator, Optional, Set, Tuple

import mmengine.registry
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
    set_random_seed,
)
from torch.utils.data import DataLoader

from .checkpoints.config_text import find_registered

REGISTRIES = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)]


def _arguments(*callables: Any) -> Set[str]:
    return {name for c in callables for name in inspect.signature(c).parameters}


# Top-level settings that runners, tools and registries read
READ = _arguments(Runner, FlexibleRunner) | {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'init_weights_for_test_or_val', 'model_wrapper_cfg',
    'retrain_base', 'runner_type', 'steps', 'sync_bn', 'tta_model', 'tta_pipeline'}
_LOADER = _arguments(DataLoader) | {'num_batch_per_epoch'}
_LOOPS = _arguments(EpochBasedTrainLoop, IterBasedTrainLoop) | {'by_epoch'}
# What is read of settings that need no type
SECTIONS = {
    **{f'{name}_dataloader': _LOADER for name in ('train', 'val', 'test')},
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'default_hooks': {'checkpoint', 'logger', 'param_scheduler', 'runtime_info',
                      'sampler_seed', 'timer'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'log_processor': _arguments(LogProcessor),
    'optim_wrapper.paramwise_cfg': {
        'bias_decay_mult', 'bias_lr_mult', 'bypass_duplicate', 'custom_keys',
        'dcn_offset_lr_mult', 'dwconv_decay_mult', 'flat_decay_mult',
        'norm_decay_mult'},
    'randomness': _arguments(set_random_seed),
    'test_cfg': _arguments(TestLoop),
    'train_cfg': _LOOPS,
    'val_cfg': _arguments(ValLoop),
}
# Settings that builders take out before they call a class
OF_BUILDERS = {
    '_delete_', '_scope_', 'constructor', 'override', 'paramwise_cfg', 'postfix',
    'priority', 'requires_grad', 'type'}


def check_options(cfg: Config, options: dict) -> None:
    """Refuse new settings that nothing reads, and warn of variables of the config.

    A new setting is read if it is an argument of a runner, of what a section such as
    ``train_dataloader`` is for, or of the registered class beside it. Free settings,
    such as a model's ``test_cfg``, and arguments of a class that takes any are not
    checked.

    Args:
        cfg (Config): The config, without the options.
        options (dict): New values by dotted key, as ``--cfg-options`` gives them.

    Raises:
        ValueError: If nothing reads one; names the nearest keys.
    """
    for key in options:
        top, *rest = key.split('.')
        if top in cfg and top not in READ:
            places = [f'{p}.{".".join(rest)}' if rest else p
                      for p in _uses(cfg, top, cfg[top])]
            print_log(
                f'--cfg-options {key} has no effect: {top} is a variable of the '
                'config file, which nothing reads after loading. Set '
                + (' and '.join(places) or 'what is made of it') + ' instead',
                level=logging.WARNING)
            continue
        node, place = cfg, ''
        for name in key.split('.'):
            if isinstance(node, (list, tuple)):
                # mmengine says what is wrong with an index
                part = dict(enumerate(node)).get(int(name) if name.isdigit() else name)
            else:
                if not isinstance(node, (dict, Config)):
                    node = {}
                part = node.get(name)
                if name not in node:
                    _check_new(cfg, options, key, place, node, name)
            node, place = part, f'{place}.{name}' if place else name


def _check_new(cfg: Config, options: dict, key: str, place: str, node: dict, name: str
               ) -> None:
    """Refuse a name that nothing reads of a dict at a place, which lacks it."""
    known = _read_at(cfg, place, node, options) if place else READ
    if known is None or name in known | OF_BUILDERS:
        return
    if place == 'default_hooks' and (
            f'{place}.{name}.type' in options
            or isinstance(options.get(f'{place}.{name}'), dict)):
        return  # a further hook
    near = difflib.get_close_matches(name, sorted(known | set(node)), 3)
    near = [f'{place}.{n}' if place else n for n in near]
    near += [p for p in _uses(cfg, name) if p not in near]
    raise ValueError(
        f'--cfg-options {key}: nothing reads {name!r}'
        + (f' in {place}' if place else '') + ', and the config has none: '
        + (f'did you mean {", ".join(near[:6])}?' if near else
           f'expected one of {", ".join(sorted(known))}'))


def _read_at(cfg: Config, place: str, node: dict, options: dict
             ) -> Optional[Set[str]]:
    """Names that are read of a dict at a place; None if any may be read."""
    kind = options.get(f'{place}.type', node.get('type'))
    if place == 'optim_wrapper' and kind in (None, 'OptimWrapper'):
        # --amp changes its type later
        return _arguments(OptimWrapper, AmpOptimWrapper)
    if kind is None:
        constructor = {**(cfg.get('optim_wrapper') or {}), **options}.keys() & {
            'constructor', 'optim_wrapper.constructor'}
        if constructor and place == 'optim_wrapper.paramwise_cfg':
            return None  # it reads what it likes
        return SECTIONS.get(place)
    known: Set[str] = set()
    for target in _targets(kind):
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):  # of C
            return None
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
        known |= set(parameters)
    return known or None


def _targets(kind: Any) -> Iterable[Any]:
    """What may be registered as a type, in any registry."""
    if not isinstance(kind, str):
        return [kind]
    found = (find_registered(kind, [registry]) for registry in REGISTRIES)
    return [target for target in found if target is not None]


def _uses(cfg: Config, name: str, value: Any = None) -> Iterator[str]:
    """Places of a config that are read and have a name or, if there is none, a value.

    Args:
        cfg (Config): The config.
        name (str): The last part of the place.
        value (Any): Numbers are too common to be looked for. Defaults to None.
    """
    places = [(place, node) for key in cfg if key in READ
              for place, node in _parts(key, cfg[key])]
    named = [(p, v) for p, v in places if p.rpartition('.')[2] == name]
    same = [p for p, v in named if value is None or v == value]
    if same or named:
        return iter(same or [p for p, _ in named])
    return (p for p, v in places
            if isinstance(value, (str, list, tuple, dict)) and value and v == value)


def _parts(place: str, node: Any) -> Iterator[Tuple[str, Any]]:
    """All values in a part of a config, each with its place."""
    yield place, node
    items = enumerate(node) if isinstance(node, (list, tuple)) else (
        node.items() if isinstance(node, dict) else ())
    for name, value in items:
        yield from _parts(f'{place}.{name}', value)

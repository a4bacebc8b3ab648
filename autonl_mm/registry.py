# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Registries of this package, children of mmengine's, scope ``autonl_mm``.

``type='autonl_mm.AutoNL'`` works in any config without imports: mmengine
imports this module to find the scope, and the locations below to find the
class. The names in :data:`BARE_NAMES`, which no other codebase uses, are also
registered with mmengine's root registries, so that ``type='AutoNL'`` works after
``custom_imports = dict(imports=['autonl_mm'])`` under any ``default_scope``.
"""
from importlib.util import find_spec

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

BARE_NAMES = {'AutoNL', 'AutoNLSuperNet', 'CostAwareModel', 'LightNL', 'PluginBackbone'}


class PublicRegistry(Registry):
    """A child registry that registers :data:`BARE_NAMES` with its parent too."""

    def _register_module(self, module, module_name=None, force=False):
        super()._register_module(module, module_name, force)
        names = module_name or module.__name__
        for name in [names] if isinstance(names, str) else names:
            if name in BARE_NAMES:
                self.parent.register_module(name, force, module)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


MODELS = PublicRegistry(
    'model',
    parent=ROOT_MODELS,
    scope='autonl_mm',
    locations=[
        'autonl_mm.models', 'autonl_mm.nas', 'autonl_mm.export.engine_model',
        'autonl_mm.measure.comparison_blocks'
    ])
OPTIM_WRAPPERS = PublicRegistry(
    'optimizer wrapper',
    parent=ROOT_OPTIM_WRAPPERS,
    scope='autonl_mm',
    locations=['autonl_mm.engine.optimizers'])
HOOKS = PublicRegistry(
    'hook',
    parent=ROOT_HOOKS,
    scope='autonl_mm',
    locations=['autonl_mm.engine.hooks', 'autonl_mm.nas'])
METRICS = PublicRegistry(
    'metric',
    parent=ROOT_METRICS,
    scope='autonl_mm',
    locations=['autonl_mm.measure.nll'])
WEIGHT_INITIALIZERS = PublicRegistry(
    'weight initializer',
    parent=ROOT_WEIGHT_INITIALIZERS,
    scope='autonl_mm',
    locations=['autonl_mm.converters.remap_init'])
TRANSFORMS = PublicRegistry(
    'transform',
    parent=ROOT_TRANSFORMS,
    scope='autonl_mm',
    locations=[
        'autonl_mm.datasets.transforms',
        'autonl_mm.datasets.release_center_crop'
    ])
# HoldoutFolder needs mmpretrain, HoldoutDataset none of the codebases.
DATASETS = PublicRegistry(
    'dataset',
    parent=ROOT_DATASETS,
    scope='autonl_mm',
    locations=['autonl_mm.datasets.holdout_dataset'] +
    ['autonl_mm.datasets.holdout_folder'] * _is_there('mmpretrain'))

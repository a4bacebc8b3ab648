# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Child registries of mmengine's, scope ``autonl_mm``.

``type='autonl_mm.AutoNL'`` works in any config, with nothing imported: mmengine
imports this module to find the scope, and the locations below to find the
class. What is registered here is also known to mmengine's root registries, so
that bare ``type='AutoNL'`` works after
``custom_imports = dict(imports=['autonl_mm'])`` under any ``default_scope``.
"""
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as ROOT_OPTIMIZERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry


class PublicRegistry(Registry):
    """A child registry that registers with its parent too."""

    def register_module(self, name=None, force=False, module=None):
        if module is None:
            return lambda module: self.register_module(name, force, module)
        super().register_module(name, force, module)
        self.parent.register_module(name, force, module)
        return module


MODELS = PublicRegistry(
    'model',
    parent=ROOT_MODELS,
    scope='autonl_mm',
    locations=['autonl_mm.models'])
OPTIMIZERS = PublicRegistry(
    'optimizer',
    parent=ROOT_OPTIMIZERS,
    scope='autonl_mm',
    locations=['autonl_mm.engine'])
OPTIM_WRAPPERS = PublicRegistry(
    'optimizer wrapper',
    parent=ROOT_OPTIM_WRAPPERS,
    scope='autonl_mm',
    locations=['autonl_mm.engine'])
HOOKS = PublicRegistry(
    'hook',
    parent=ROOT_HOOKS,
    scope='autonl_mm',
    locations=['autonl_mm.engine'])
TRANSFORMS = PublicRegistry(
    'transform',
    parent=ROOT_TRANSFORMS,
    scope='autonl_mm',
    locations=[
        'autonl_mm.datasets.transforms',
        'autonl_mm.datasets.release_center_crop'
    ])
# Not imported by the package itself: its datasets are mmpretrain's.
DATASETS = PublicRegistry(
    'dataset',
    parent=ROOT_DATASETS,
    scope='autonl_mm',
    locations=['autonl_mm.datasets.holdout_folder'])

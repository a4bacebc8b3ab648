# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Optional packages that a config needs, looked for before anything is built."""
from importlib.util import find_spec
from typing import Any, Iterator, Tuple

# From what a config names to the module that it imports when it is built or, worse,
# first used, and to the distribution that has it.
NEEDED = {
    'TensorboardVisBackend': ('tensorboard', 'tensorboard'),
    'WandbVisBackend': ('wandb', 'wandb'),
    'MLflowVisBackend': ('mlflow', 'mlflow'),
    'ClearMLVisBackend': ('clearml', 'clearml'),
    'NeptuneVisBackend': ('neptune', 'neptune'),
    'DVCLiveVisBackend': ('dvclive', 'dvclive'),
    'AimVisBackend': ('aim', 'aim'),
    'Albu': ('albumentations', 'albumentations'),
    'Albumentations': ('albumentations', 'albumentations'),
    'CocoMetric': ('pycocotools', 'pycocotools'),
    'CocoDataset': ('pycocotools', 'pycocotools'),
    'LVISDataset': ('lvis', 'lvis'),
    'LVISV1Dataset': ('lvis', 'lvis'),
    'LVISMetric': ('lvis', 'lvis'),
    'CityscapesMetric': ('cityscapesscripts', 'cityscapesscripts'),
    'CocoPanopticDataset': ('panopticapi', 'panopticapi'),
    'CocoPanopticMetric': ('panopticapi', 'panopticapi'),
    'TIMMBackbone': ('timm', 'timm'),
    'TimmClassifier': ('timm', 'timm'),
    'HuggingFaceClassifier': ('transformers', 'transformers'),
    'DeepSpeedStrategy': ('deepspeed', 'deepspeed'),
    'tifffile': ('tifffile', 'tifffile'),
    'turbojpeg': ('turbojpeg', "'PyTurboJPEG<2'"),
}
SCOPES = {
    'mmpretrain': 'mmpretrain', 'mmdet': 'mmdet', 'mmseg': 'mmsegmentation'}


def check_packages(cfg: dict) -> None:
    """Refuse a config that names something whose package is missing.

    Args:
        cfg (dict): The config.

    Raises:
        ImportError: Names the setting and what to install.
    """
    cfg = dict(cfg)  # of a Config
    needed = dict(_named('', cfg))
    for scope in _scopes(cfg):
        if scope in SCOPES:
            needed[f'scope {scope}'] = (scope, SCOPES[scope])
    for setting, (module, distribution) in needed.items():
        if find_spec(module) is None:
            raise ImportError(f'{setting} needs the package {module}, which is not '
                              f'installed: pip install {distribution}')


def _named(key: str, node: Any) -> Iterator[Tuple[str, Tuple[str, str]]]:
    """Settings that need a package: the setting, module and distribution."""
    if isinstance(node, dict):
        for name, value in node.items():
            place = f'{key}.{name}' if key else str(name)
            if name in ('type', 'imdecode_backend'):
                kind = getattr(value, '__name__', str(value)).split('.')[-1]
                if kind in NEEDED:
                    yield f'{place}={kind!r}', NEEDED[kind]
            else:
                yield from _named(place, value)
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _named(f'{key}.{i}', item)


def _scopes(node: Any) -> Iterator[str]:
    """Scopes of the types in a config, and its default scope."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == 'default_scope':
                yield str(value)
            elif name == 'type' and isinstance(value, str) and '.' in value:
                yield value.split('.')[0]
            else:
                yield from _scopes(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _scopes(item)

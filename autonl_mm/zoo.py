# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Classifiers by name, with ImageNet weights where there are some."""
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import List, Optional

from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS

from .arch import resolve_arch
from .converters.remap import WITHOUT
from .converters.remap_init import Remap
from .cost import ParamsModel, count_macs
from .models.backbones.autonl import LAYER_CFGS, AutoNL, layer_cfgs
from .named_networks import IMAGENET, NAMED_NETWORKS
from .runs.tables import markdown_table

# Top-1 of the paper. Only the authors have these weights.
OURS = dict(autonl_s=76.5, autonl_l=77.7)


def list_models(pretrained: Optional[bool] = None, filter: str = '') -> List[str]:
    """Names that :func:`get_model` and the ``arch`` of an AutoNL take.

    :func:`table` also says their weights' source, licence, checksum and accuracy.

    Args:
        pretrained (bool, optional): Whether to list networks with weights, or those
            without. Defaults to None, both.
        filter (str): Pattern of the names, such as ``'*lite*'``. Defaults to '', all.

    Returns:
        list[str]: The names; all but AutoNL's are timm's.
    """
    return [name for name in [*NAMED_NETWORKS, *OURS]
            if pretrained in (None, name in NAMED_NETWORKS)
            and fnmatchcase(name, filter or '*')]


def table(filter: str = '') -> str:
    """The networks as a Markdown table.

    Args:
        filter (str): As for :func:`list_models`. Defaults to ''.

    Returns:
        str: For each network the side of its images, MACs, parameters, published
        top-1, licence, the start of the file's SHA-256, and where it is.
    """
    rows = []
    for name in list_models(filter=filter):
        arch, named = resolve_arch(name), NAMED_NETWORKS.get(name)
        size = named.input_size if named else 224
        cells = [OURS.get(name), '-', '-', "the authors'"]
        if named:
            digest = named.file.rpartition('-')[2].removesuffix('.pth')
            source = f'[timm]({named.url})'
            if named.package:
                package, file = named.package
                digest += f', {file.rpartition("-")[2].removesuffix(".pth")}'
                source += f', package {package.replace("_", "-")}'
            cells = [f'{named.top1:.2f}', named.licence, digest, source]
        rows.append([
            f'`{name}`', size, f'{count_macs(arch, size).total / 1e6:.1f} M',
            f'{ParamsModel().network(arch) / 1e6:.2f} M', *cells])
    return markdown_table(['name', 'images', 'MACs', 'parameters', 'top-1', 'licence',
                           'SHA-256', 'weights'], rows)


def get_model(name: str,
              pretrained: bool = False,
              num_classes: int = 1000,
              checkpoint: Optional[str] = None,
              **backbone_args) -> BaseModel:
    """Build a classifier of mmpretrain by the name of its network.

    mmpretrain's inferencer takes it as it is, with the network's crop, normalisation
    and ImageNet's class names:
    ``ImageClassificationInferencer(get_model('mnasnet_100', True))('cat.jpg')``.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (bool): Whether to load ImageNet weights, from the package that has
            them if it is installed, else from timm's address. Defaults to False.
        num_classes (int): Classes. The weights' linear layer is kept if it has as many,
            else it is new, and the log says so. Defaults to 1000.
        checkpoint (str, optional): File to load instead, of the network of that name,
            with timm's, mmpretrain's or our names of tensors. Defaults to None.
        **backbone_args: Of :class:`~autonl_mm.models.AutoNL`. With ``out_indices``
            that leave out the head convolution, the model has no classifier and
            returns the feature maps: in all of these networks, ``(2, 3, 5, 7)`` are
            the last ones of strides 4, 8, 16 and 32. Another ``in_channels`` sums or
            repeats the stem's kernels. An ``arch`` keeps the name's settings:
            ``resolve_arch(name).with_light_nl()`` puts LightNL into the network.

    Returns:
        ImageClassifier: The model, as built for training; ``.eval()`` it to infer.

    Raises:
        ImportError: If mmpretrain is not installed.
        OSError: If the weights cannot be downloaded; says which file to put where.
        ValueError: If there is no such network or it has no weights, or a setting or
            the checkpoint does not fit.
    """
    if name not in list_models():
        near = get_close_matches(str(name), list_models()) or list_models()
        raise ValueError(f'there is no network {name!r}, expected one of '
                         f'{", ".join(near)}')
    if find_spec('mmpretrain') is None:
        raise ImportError('get_model builds classifiers of mmpretrain: pip install '
                          'mmpretrain')
    if pretrained and checkpoint is None:
        checkpoint = _weights(name)
    cfgs = layer_cfgs(name, *(backbone_args.pop(key, None) for key in LAYER_CFGS))
    backbone = MODELS.build(dict(
        dict(arch=name, out_indices=(-1, )), **backbone_args, **cfgs,
        type='autonl_mm.AutoNL'))
    model = _classifier(name, backbone, num_classes)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')  # mmengine lists every parameter
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    if checkpoint is not None:
        _load(model, checkpoint, name)
    return model


def _weights(name: str) -> str:
    """Where the ImageNet weights of a network are."""
    if name in OURS:
        raise ValueError(
            f'the weights of {name} are not published in a form that can be loaded: '
            'convert the authors\' by tools/model_converters/autonl_to_mm.py and set '
            "checkpoint=FILE and normalize='size'")
    package = NAMED_NETWORKS[name].package
    return f'{"package" if package and find_spec(package[0]) else "timm"}://{name}'


def _classifier(name: str, backbone: AutoNL, num_classes: int) -> BaseModel:
    """A classifier, or a backbone alone, with what mmpretrain's inferencer reads."""
    arch, named = backbone.arch(), NAMED_NETWORKS.get(name)
    mean, std = (named.mean, named.std) if named else IMAGENET.values()
    if backbone.in_channels != 3:  # the same for all channels
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    model = dict(
        type='ImageClassifier', _scope_='mmpretrain', backbone=backbone,
        data_preprocessor=dict(
            num_classes=num_classes, mean=mean, std=std, to_rgb=len(mean) == 3))
    if max(backbone.out_indices) > len(arch.stages):
        model.update(
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(type='LinearClsHead', num_classes=num_classes,
                      in_channels=arch.head_channels))
    model = MODELS.build(model)
    pipeline = [
        dict(type='LoadImageFromFile'),
        # pillow filters what it makes smaller, as did timm for the published figures
        dict(type='mmpretrain.EfficientNetCenterCrop', backend='pillow',
             crop_size=named.input_size if named else 224,
             interpolation=named.interpolation if named else 'bicubic'),
        dict(type='mmpretrain.PackInputs')]
    model._config = Config(dict(
        test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    model._dataset_meta = {}
    if num_classes == 1000:
        model._dataset_meta = dict(DATASETS.get('mmpretrain.ImageNet').METAINFO)
    return model


def _load(model: BaseModel, checkpoint: str, name: str) -> None:
    """Load the weights of the network of that name, and its linear layer if it fits."""
    backbone = model.backbone
    remapped = Remap(checkpoint, name).fill(backbone, backbone.arch())
    if any(row.source.endswith(WITHOUT) for row in remapped.rows):
        raise ValueError(f'{checkpoint} has LightNL, but the network has not: set '
                         'arch=resolve_arch(name).with_light_nl(), as in its training')
    fc = remapped.fc
    if not model.with_head:
        return
    if len(fc.get('bias', ())) == model.head.num_classes:
        model.head.fc.load_state_dict(fc)
    else:
        print_log(f'{checkpoint} has no linear layer of {model.head.num_classes} '
                  'classes, so it is new', 'current')

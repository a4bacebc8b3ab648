# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checks of datasets, and of the classes in them, before a run starts."""
import copy
import errno
import os
import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn

from .classes import built_leaves, classes_of, different_classes, shorten
from .coco_files import read_categories
from .config_parts import config_parts, leaf_datasets, type_name
from .dry_run import check_forward
from .hooks.label_check_hook import classifying_heads, is_binary
from .random_state import preserve_random_states
from .sample_checks import check_samples, spread


def check_loaders(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse settings of dataloaders that torch refuses when it builds them.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Names of the dataloaders that will be used.

    Raises:
        ValueError: If one needs worker processes and there are none; names it.
    """
    for name in loaders:
        loader = cfg.get(name) or {}
        if loader.get('num_workers', 0):
            continue
        for key, without in (('persistent_workers', False), ('prefetch_factor', None)):
            if loader.get(key):
                raise ValueError(
                    f'{name}.{key} is {loader[key]}, a setting of worker processes, '
                    f'but num_workers is 0: set {name}.num_workers, or '
                    f'{name}.{key}={without}')


def check_datasets(runner: Runner, train: bool, labelled: bool = True) -> None:
    """Check images, boxes and classes of the datasets.

    Labels are positions in lists of names. Where two lists differ, all labels behind
    the difference mean something else, and nothing would show it but the metrics.

    Args:
        runner (Runner): The runner; its datasets are built here.
        train (bool): True to check the data of training and validation, False
            to check those of testing.
        labelled (bool): Whether the data need labels. Defaults to True.

    Raises:
        ValueError: If a dataset has no image or no labels, a detector's dataset
            has no box, a folder has a link to itself, images of a batch differ in
            size or from their annotations, a label is no class, classes of two
            datasets, or of a dataset and the model's heads, differ, or the model cannot
            process a batch. Names the annotation file, and of wrapped datasets the one
            to blame.
    """
    names = ['test']
    if train:
        names = ['train', 'val'] if runner.cfg.get('val_dataloader') else ['train']
    built = {}
    for name in names:
        key = f'{name}_evaluator'
        if any(metric.get('format_only')
               for _, metric in config_parts(key, runner.cfg.get(key))):
            continue  # only a server has the annotations
        key = f'{name}_dataloader.dataset'
        built[key] = _build(runner, name)
        check_sizes(runner, name)
        for place, dataset in built_leaves(key, built[key]):
            check_folder(place, dataset, runner.logger)
            if not labelled or not is_unlabelled(dataset):
                continue
            if 'instances' in dataset.get_data_info(0):
                raise ValueError(
                    f'{place} has {len(dataset)} images but no box: '
                    f'{_describe(dataset)} has no annotation of a known class. Use '
                    'an annotation file with boxes, in pixels, and check that '
                    'metainfo.classes are its categories')
            advice = 'use data with labels'
            if not train:
                advice += ', or give --out FILE.pkl, which writes only predictions'
            raise ValueError(f'{place} has no labels, which {name}_evaluator and '
                             f'training need ({_describe(dataset)}): {advice}')
    check_classes(runner, built)
    if labelled:
        check_samples(runner, built)
    if train:
        check_binary_heads(runner.model)
    check_forward(runner, train)


def is_unlabelled(dataset: Any) -> bool:
    """Whether no image of a dataset has annotations.

    Args:
        dataset (Dataset): One of mmpretrain, mmdet or mmseg, without wrappers.
    """
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return False
    info = dataset.get_data_info(0)
    if 'instances' in info:  # mmdet
        return not any(
            dataset.get_data_info(i)['instances'] for i in range(len(dataset)))
    if 'seg_fields' in info:  # mmseg
        return 'seg_map_path' not in info
    return not getattr(dataset, 'with_label', True)  # mmpretrain


def _build(runner: Runner, name: str) -> Any:
    """Build a dataset; of one that is empty, say which part is to blame."""
    try:
        return getattr(runner, f'{name}_dataloader').dataset
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
        raise ValueError(
            f'{name}_dataloader: {_circle(str(e.filename))!r} is a link to a folder '
            'that it lies in, so that images would be found again and again: remove '
            'the link') from None
    except AssertionError as e:  # mmpretrain's, of more or fewer classes than folders
        raise ValueError(f'{name}_dataloader.dataset: {e}') from e
    except ValueError as e:
        # mmengine's message for a dataset that filtered out every image
        if 'need at least one array' not in str(e):
            raise
        place, cfg = _find_empty(f'{name}_dataloader.dataset',
                                 runner.cfg[f'{name}_dataloader']['dataset'])
        raise ValueError(
            f'{place} is empty: ann_file {cfg.get("ann_file", "")!r} of data_root '
            f'{cfg.get("data_root", "")!r} has no image, or no image with a box of a '
            'known class. Check the annotations and metainfo.classes') from e


def _circle(path: str) -> str:
    """The first link of a path that leads to a folder which it lies in."""
    parts = path.split(os.sep)
    for i in range(2, len(parts) + 1):
        link = os.sep.join(parts[:i])
        folder = osp.join(osp.realpath(osp.dirname(link)), '')
        if osp.islink(link) and folder.startswith(osp.join(osp.realpath(link), '')):
            return link
    return path


def _find_empty(key: str, cfg: dict) -> Tuple[str, dict]:
    leaves = list(leaf_datasets(key, cfg))
    for place, leaf in leaves[:-1]:
        try:
            DATASETS.build(copy.deepcopy(leaf))
        except ValueError:
            return place, leaf
    return leaves[-1]


def _describe(dataset: Any) -> str:
    """Annotation file and data root of a dataset."""
    return (f'ann_file {getattr(dataset, "ann_file", "")!r} of data_root '
            f'{getattr(dataset, "data_root", "")!r}')


# -------------------------------------------------------------------- images
def check_folder(place: str, dataset: Any, logger: Any) -> None:
    """Log how many files of an image folder are not used.

    mmpretrain's datasets of folders take files by their extensions, and leave out the
    others without a word.

    Args:
        place (str): Name of the dataset's setting.
        dataset (Dataset): One of mmpretrain; others are not looked at.
        logger (Logger): Gets one line.
    """
    root, extensions = (getattr(dataset, name, None)
                        for name in ('img_prefix', 'extensions'))
    if not root or not extensions or getattr(dataset, 'ann_file', ''):
        return
    left_out = [
        osp.join(folder, name)
        for folder, _, files in os.walk(root, followlinks=True) for name in files
        if not name.lower().endswith(tuple(extensions))]
    if left_out:
        kinds = Counter(osp.splitext(path)[1].lower() or 'no extension'
                        for path in left_out)
        logger.warning(
            f'{place}: {len(left_out)} files in {root!r} are left out, since their '
            f'names do not end in one of {", ".join(extensions)}: '
            + ', '.join(f'{count} {kind}' for kind, count in kinds.most_common())
            + f' ({shorten(sorted(left_out))})')


def check_sizes(runner: Runner, name: str) -> None:
    """Refuse images that do not fit into one batch.

    Args:
        runner (Runner): The runner.
        name (str): ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ValueError: If a few images, spread over the dataset, differ in size, and the
            dataloader does not pad them.
    """
    loader = getattr(runner, f'{name}_dataloader')
    cfg = runner.cfg.get(f'{name}_dataloader') or {}
    collate = type_name(cfg.get('collate_fn') or {})
    if collate != 'default_collate' or getattr(loader, 'batch_size', None) == 1:
        return
    count = len(loader.dataset)
    places = spread(count)
    try:
        with preserve_random_states():
            samples = [loader.dataset[i] for i in places]
    except Exception:  # shows itself, with the image, when the loader meets it
        return
    shapes = {}
    for i, sample in zip(places, samples):
        inputs = sample.get('inputs') if isinstance(sample, dict) else None
        if isinstance(inputs, torch.Tensor):
            shapes.setdefault(tuple(inputs.shape), i)
    if len(shapes) > 1:
        (a, i), (b, j), *_ = shapes.items()
        raise ValueError(mixed_sizes(f'{name}_dataloader', f'{a} (image {i})',
                                     f'{b} (image {j})'))


def mixed_sizes(loader: str, a: str, b: str) -> str:
    """The message for two images that do not fit into one batch.

    Args:
        loader (str): Name of the dataloader.
        a (str): Shape of the first, channels first.
        b (str): Shape of the second.
    """
    return (f'{loader} gives images of different shapes, {a} and {b}, which cannot '
            'form a batch: its pipeline needs a transform that gives all of them one '
            'size before PackInputs, such as RandomResizedCrop in training, Resize '
            'with keep_ratio=False, or ResizeEdge and CenterCrop')


# ------------------------------------------------------------------- classes
def check_classes(runner: Runner, datasets: Dict[str, Any]) -> None:
    """Compare classes of datasets, of annotation files and of the model's heads.

    Args:
        runner (Runner): The runner.
        datasets (dict[str, Dataset]): By the name of their setting.

    Raises:
        ValueError: If they differ; names both.
    """
    first = None
    for key, dataset in datasets.items():
        for place, leaf in built_leaves(key, dataset):
            classes = classes_of(getattr(leaf, 'metainfo', None))
            if not classes:
                continue
            _check_categories(place, leaf, classes)
            _check_folders(place, leaf, classes)
            if first is None:
                first = place, classes
                _check_heads(runner, place, leaf.metainfo, len(classes))
            elif first[1] != classes:
                raise different_classes(place, classes, *first)
    model = getattr(runner.model, 'module', runner.model)  # in test-time augmentation
    exported = getattr(getattr(model, 'session', None), 'info', {})
    if first and exported.get('classes', first[1]) != first[1]:
        raise different_classes(*first, 'the ONNX file', exported['classes'])
    if first:
        _check_topk(runner, len(first[1]))


def _check_heads(runner: Runner, place: str, metainfo: dict, count: int) -> None:
    # heads of panoptic models are for things alone
    counts = {count, len(metainfo.get('thing_classes') or ()) or count}
    for name, head in classifying_heads(runner.model).items():
        if name.split('.')[-1] not in ('head', 'bbox_head', 'decode_head'):
            continue
        if head.num_classes not in counts and not (is_binary(head) and count <= 2):
            raise ValueError(
                f'{name}.num_classes is {head.num_classes}, but {place} has {count} '
                f'classes {shorten(classes_of(metainfo))}: set model.{name}.'
                f'num_classes={count}, or check the data')


def check_binary_heads(model: nn.Module) -> None:
    """Refuse a softmax over one output channel.

    Args:
        model (nn.Module): The model.

    Raises:
        ValueError: If a head has one; names it.
    """
    for name, head in classifying_heads(model).items():
        for loss in head.modules() if is_binary(head) else ():
            if type(loss).__name__ == 'CrossEntropyLoss' and not (
                    loss.use_sigmoid or loss.use_mask):
                raise ValueError(
                    f'{name} has one output channel, but its loss is a softmax, which '
                    f'of one channel is always 1: set model.{name}.loss_decode.'
                    'use_sigmoid=True, or out_channels=2')


def _check_topk(runner: Runner, count: int) -> None:
    """A top-k accuracy needs at least k classes."""
    for name in ('val', 'test'):
        key = f'{name}_evaluator'
        for place, metric in config_parts(key, runner.cfg.get(key)):
            topk = metric.get('topk', 1) if type_name(metric) == 'Accuracy' else 1
            topk = (topk, ) if isinstance(topk, int) else tuple(topk)
            if max(topk) > count:
                raise ValueError(
                    f'{place}.topk is {topk}, but the data have only {count} classes: '
                    f'set {place}.topk='
                    f'({", ".join(str(k) for k in topk if k <= count)},)')


def _check_folders(place: str, dataset: Any, classes: List[str]) -> None:
    """Labels of an image folder follow the names of its folders, not ``classes``.

    Names that are no folder's, such as words for WordNet's numbers, only describe.
    """
    folders = list(getattr(dataset, 'folder_to_idx', None) or ())
    for i, (name, folder) in enumerate(zip(classes, folders)):
        if name != folder and name in folders:
            raise ValueError(
                f'{place}.metainfo.classes[{i}] is {name!r}, but folder {i} of '
                f'{dataset.img_prefix!r} is {folder!r}, and labels are positions in '
                f'the sorted folders {shorten(folders)}: give metainfo.classes in '
                'this order, or leave it out')


def _check_categories(place: str, dataset: Any, classes: List[str]) -> None:
    """COCO's labels follow the order of the annotation file, not of ``classes``."""
    ids, path = getattr(dataset, 'cat_ids', None), getattr(dataset, 'ann_file', '')
    if not ids or not path.endswith('.json') or not osp.isfile(path):
        return
    names = {c['id']: str(c['name']) for c in read_categories(path)}
    labels = [names.get(i, '?') for i in ids]
    for name, count in Counter(labels).items():
        if count > 1:
            same = [i for i in ids if names.get(i) == name]
            raise ValueError(
                f'{path} has {count} categories of the name {name!r}, with the ids '
                f'{same}, so that later labels would mean other classes: rename or '
                'remove all but one')
    if names and labels != classes:
        raise different_classes(f'{place}.metainfo', classes, path, labels)

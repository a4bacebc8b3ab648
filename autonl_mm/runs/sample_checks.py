# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Labels and sizes of samples of every dataset, before a run starts."""
from collections import Counter
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.runner import Runner

from .classes import built_leaves, classes_of, shorten
from .hooks.label_check_hook import LabelCheckHook, wrong_labels
from .model_wrappers import task_model
from .random_state import preserve_random_states
from .skipped_images import find_transforms

# At most so many annotations are read, and images and masks decoded
ANNOTATIONS, IMAGES, MASKS = 20000, 32, 64


def spread(count: int, most: int = 8) -> List[int]:
    """Up to ``most`` indices, spread over ``count`` samples."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def check_samples(runner: Runner, datasets: Dict[str, Any]) -> None:
    """Check labels, and sizes of images, of samples that are spread over the data.

    Images that cannot be read are left out: the dataloader names them.

    Args:
        runner (Runner): The runner; its logger gets warnings.
        datasets (dict[str, Dataset]): By the name of their setting.

    Raises:
        ValueError: If a label is no class, masks have no foreground,
            ``reduce_zero_label`` differs, or an image has another size than its
            annotation. Names the file and both values.
    """
    hook = LabelCheckHook()
    hook.before_run(runner)
    reduced: Dict[type, Tuple[str, bool]] = {}
    for key, dataset in datasets.items():
        for place, leaf in built_leaves(key, dataset):
            if not hasattr(leaf, 'get_data_info') or not len(leaf):
                continue
            with preserve_random_states():
                _check_sizes(place, leaf)
            classes = classes_of(getattr(leaf, 'metainfo', None))
            count = max(len(classes), hook.num_classes or 0)
            if not classes and not key.startswith('train') and any(
                    word in type(task_model(runner.model)).__name__
                    for word in ('Retriev', 'ReID')):
                count = 0  # images of other objects than in training
            ignored = hook.ignore | {getattr(leaf, 'ignore_index', None)}
            _check_labels(place, leaf, count, classes, runner.logger)
            _check_masks(place, leaf, count, classes, ignored, runner.logger)
            if hasattr(leaf, 'reduce_zero_label'):
                one, reduces = reduced.setdefault(
                    type(leaf), (place, leaf.reduce_zero_label))
                if reduces != leaf.reduce_zero_label:
                    raise ValueError(
                        f'{place}.reduce_zero_label is {leaf.reduce_zero_label}, but '
                        f'{one}.reduce_zero_label is {reduces}, so that a label would '
                        'mean two classes: set both alike, to True only where 0 in the '
                        'masks is no class')


def _check_labels(place: str, dataset: Any, count: int, classes: List[str],
                  logger: Any) -> None:
    """Check labels that are numbers in the annotations."""
    seen: Set[int] = set()
    indices = spread(len(dataset), ANNOTATIONS)
    for i in indices:
        info = dataset.get_data_info(i)
        labels = _labels_of(info)
        wrong = {label for label in labels if not 0 <= label < count}
        if wrong and count:
            raise wrong_labels(f'{place}: {info.get("img_path", f"image {i}")}', wrong,
                               count)
        seen.update(labels)
    if seen:
        _warn_of_absent(f'{place}: {len(indices)} images', seen, classes, logger)


def _labels_of(info: dict) -> List[int]:
    """Labels of an image, or of the boxes and segments in it."""
    label = np.asarray(info.get('gt_label', ()))  # of several tasks, a dict
    labels = label.ravel().tolist() if label.dtype.kind in 'iu' else []
    labels += [box['bbox_label'] for box in info.get('instances') or ()
               if 'bbox_label' in box]
    return labels + [s['category'] for s in info.get('segments_info') or ()]


def _warn_of_absent(samples: str, seen: Set[int], classes: List[str],
                    logger: Any) -> None:
    absent = [name for i, name in enumerate(classes) if i not in seen]
    if absent:
        logger.warning(
            f'{samples}, spread over all, have no label of {len(absent)} of the '
            f'{len(classes)} classes: {shorten(absent)}. Unless these are rare, check '
            'the annotations and the order of metainfo.classes')


def _check_masks(place: str, dataset: Any, count: int, classes: List[str],
                 ignored: Set[Optional[int]], logger: Any) -> None:
    """Check labels of pixels."""
    load = _find(dataset, LoadAnnotations)
    if load is None or 'seg_fields' not in dataset.get_data_info(0):
        return
    pixels: Counter = Counter()
    indices = spread(len(dataset), MASKS)
    for i in indices:
        info = dataset.get_data_info(i)
        try:
            found = np.bincount(load(info)['gt_seg_map'].ravel())
        except Exception:  # shows itself, with the image, in the dataloader
            continue
        found = {label: n for label, n in enumerate(found.tolist()) if n}
        wrong = {label for label in found if label >= count} - ignored
        if wrong and count:
            raise wrong_labels(f'{place}: {info["seg_map_path"]}', wrong, count)
        pixels.update(found)
    samples = f'{place}: {len(indices)} masks'
    if set(pixels) == {0, 255}:
        words = (f'{samples}, spread over all, such as {info["seg_map_path"]}, have no '
                 'labels but 0 and 255, and 255 is ignored: there is no foreground. '
                 'Convert masks of 0 and 255 to 0 and 1; leave reduce_zero_label out')
        if len(indices) == len(dataset):
            raise ValueError(words)
        logger.warning(words)  # a rare class may be in none of them
        return
    share = sum(pixels[label] for label in ignored) / max(sum(pixels.values()), 1)
    if share > 0.5:
        logger.warning(f'{samples}, spread over all, have {share:.0%} pixels of labels '
                       f'that are ignored, {sorted(ignored & set(pixels))}: check them '
                       'and reduce_zero_label')
    if pixels:
        _warn_of_absent(samples, set(pixels), classes, logger)


def _check_sizes(place: str, dataset: Any) -> None:
    """Compare sizes of images, as they are loaded, with those of their annotations."""
    load, load_mask = (_find(dataset, kind) for kind in (
        LoadImageFromFile, LoadAnnotations))
    for i in spread(len(dataset), IMAGES) if load else ():
        info = dataset.get_data_info(i)
        given = info.get('width'), info.get('height')
        masked = load_mask and info.get('seg_map_path')
        if not masked and not all(given):
            continue
        image = info.get('img_path')
        size = _loaded_size(load, info, 'img')
        if size and all(given) and max(abs(a - b) for a, b in zip(size, given)) > 1:
            raise _different_sizes(
                place, image, size, f'{dataset.ann_file} says', given,
                'scale the boxes; if they fit, correct width and height')
        given = size and masked and _loaded_size(load_mask, info, 'gt_seg_map')
        if given and given != size:
            raise _different_sizes(place, image, size, f'its mask {masked} has', given,
                                   'make one of this size')


def _loaded_size(load: Any, info: dict, key: str) -> Optional[Tuple[int, int]]:
    """Width and height; None for a file that cannot be read."""
    try:
        return load(info)[key].shape[1::-1]
    except Exception:  # shows itself, with the image, in the dataloader
        return None


def _different_sizes(place: str, image: str, size: Tuple[int, int], other: str,
                     given: Tuple[int, int], advice: str) -> ValueError:
    if size == given[::-1]:
        advice = (
            'the sides are exchanged, as by EXIF data. Load the image as annotated, by '
            "LoadImageFromFile.color_type='color_ignore_orientation' as it is stored, "
            "or by 'color' and imdecode_backend='cv2' upright; if it is, exchange "
            'width and height of the annotation')
    else:
        advice = f'use the image that was annotated, or {advice}'
    return ValueError(
        f'{place}: {image} is loaded with {size[0]}x{size[1]} pixels (width x height), '
        f'but {other} {given[0]}x{given[1]}: {advice}')


def _find(dataset: Any, kind: type) -> Any:
    """The first transform of a class in a dataset's pipeline."""
    return next((t for t in find_transforms(dataset) if isinstance(t, kind)), None)

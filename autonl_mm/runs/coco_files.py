# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""COCO files: a key that is missing is named before anything reads it."""
import os
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from mmengine.registry import Registry

from .text_files import parse_json

# What mmdet reads of every item; iscrowd only pycocotools, to evaluate
KEYS = dict(images=('id', 'file_name', 'height', 'width'), categories=('id', 'name'),
            annotations=('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'))
ADVICE = dict(
    height='its height in pixels', width='its width in pixels',
    bbox='[x, y, width, height] in pixels', iscrowd='0, or 1 for a group of objects',
    area="the mask's area, or without masks the box's, in pixels")


def class_names(registry: Registry, kind: Any, scope: Optional[str]) -> Set[str]:
    """Names of the class that a config's ``type`` means, and of its bases.

    Empty if there is no such class, which shows itself when it is built.
    """
    if isinstance(kind, str):
        try:
            with registry.switch_scope_and_registry(scope) as child:
                kind = child.get(kind)
        except RuntimeError:
            return set()
    return {base.__name__ for base in getattr(kind, '__mro__', ())}


def check_coco(place: str, path: str, evaluates: bool = False) -> None:
    """Look for what mmdet needs of a COCO file.

    Args:
        place (str): Name of the setting that has the file, for the message.
        path (str): The file.
        evaluates (bool): Whether pycocotools evaluates with it. Defaults to False.

    Raises:
        ValueError: If it is not JSON, or a key is missing; names file and key.
    """
    for key, problem in _read(path, os.stat(path).st_mtime_ns)[1].items():
        if evaluates or key != 'iscrowd':
            raise ValueError(f'{place}: {problem}')


def read_categories(path: str) -> List[dict]:
    """Categories of a COCO file; of one that was checked, without parsing it again."""
    return _read(path, os.stat(path).st_mtime_ns)[0]


@lru_cache(maxsize=8)
def _read(path: str, modified: int) -> Tuple[List[dict], Dict[str, str]]:
    """Categories, and what is wrong by the key that it is wrong with."""
    data = parse_json(Path(path).read_bytes(), path)
    for part in KEYS:
        if not isinstance(data, dict) or not isinstance(
                data.get(part, [] if part == 'annotations' else None), list):
            return [], {part: f'{path} has no list {part!r}, expected a COCO file with '
                              'the lists images, annotations and categories'}
    problems = {}
    for part, keys in KEYS.items():
        items = [i if isinstance(i, dict) else {} for i in data.get(part, [])]
        if part == 'annotations' and items and 'segments_info' in items[0]:
            continue  # of panoptic segmentation
        for key in keys:
            wrong = [i for i, item in enumerate(items) if _lacks(item, key)]
            if wrong:
                given = items[wrong[0]].get(key)
                problems.setdefault(key, (
                    f'{path}: {part}[{wrong[0]}] has '
                    + (f'the {key} {given}' if given else f'no {key!r}')
                    + f', as {len(wrong)} of {len(items)} {part}: write '
                    + ADVICE.get(key, f'the {key}') + ' into each'))
    return data['categories'], problems


def _lacks(item: dict, key: str) -> bool:
    value = item.get(key)
    if key == 'file_name':  # LVIS has an address instead
        value = value or item.get('coco_url')
    if key == 'bbox' and isinstance(value, list):
        return len(value) != 4 or not all(
            isinstance(v, (int, float)) and isfinite(v) for v in value)
    return value is None

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Names of classes: in built datasets and in messages."""
from typing import Any, Iterator, List, Optional, Tuple


def built_leaves(key: str, dataset: Any) -> Iterator[Tuple[str, Any]]:
    """The innermost datasets of a built dataset, without their wrappers.

    Args:
        key (str): Name of the setting that the dataset was built from.
        dataset (Dataset): Possibly a ConcatDataset, RepeatDataset,
            ClassBalancedDataset, MultiImageMixDataset or another wrapper.

    Yields:
        tuple[str, Dataset]: Name of the setting and the dataset.
    """
    if isinstance(getattr(dataset, 'datasets', None), (list, tuple)):
        for i, inner in enumerate(dataset.datasets):
            yield from built_leaves(f'{key}.datasets.{i}', inner)
    elif hasattr(dataset, 'dataset'):
        yield from built_leaves(f'{key}.dataset', dataset.dataset)
    else:
        yield key, dataset


def classes_of(metainfo: Optional[dict]) -> List[str]:
    """Names of the classes in a dataset's metainfo, [] if it has none."""
    return [str(name) for name in (metainfo or {}).get('classes') or ()]


def different_classes(place: str, classes: List[str], other: str,
                      others: List[str]) -> ValueError:
    """The error for two lists of classes that should be equal.

    Args:
        place (str): Source of the first list.
        classes (list[str]): The first list.
        other (str): Source of the second list.
        others (list[str]): The second list.
    """
    only = [f'only {where} has {shorten(sorted(set(a) - set(b)))}'
            for where, a, b in ((place, classes, others), (other, others, classes))
            if set(a) - set(b)] or ['the order differs']
    return ValueError(
        f'{place} has {len(classes)} classes {shorten(classes)}, but {other} has '
        f'{len(others)} classes {shorten(others)} ({"; ".join(only)}): a label is a '
        'position in this list, so it would mean two classes. Give both the same '
        'metainfo.classes and, in folders, one folder for each class')


def shorten(names: list) -> str:
    """A list of names in one line, without the middle of a long list."""
    names = [str(name) for name in names]
    return str(names if len(names) <= 6 else names[:3] + ['...'] + names[-2:])

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Pipelines of built datasets."""
from typing import Any

from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset


def forward_pipelines() -> None:
    """Make mmengine's wrappers of datasets forward ``pipeline``, in this process.

    Hooks such as mmdet's PipelineSwitchHook set the ``pipeline`` of the training
    dataset. A wrapper would keep it as an attribute that nothing reads.
    """
    def get(self):
        return _wrapped(self)[0].pipeline

    def replace(self, pipeline):
        for dataset in _wrapped(self):
            dataset.pipeline = pipeline

    for wrapper in (ClassBalancedDataset, ConcatDataset, RepeatDataset):
        wrapper.pipeline = property(get, replace)


def _wrapped(wrapper: Any) -> list:
    return getattr(wrapper, 'datasets', None) or [wrapper.dataset]


def remove_annotations(pipeline: Any) -> None:
    """Remove the loading of annotations from a pipeline, for data without labels.

    Args:
        pipeline (Compose): The pipeline, changed in place. Pipelines inside of its
            transforms, such as those of TestTimeAug and RandomChoice, are changed too.
    """
    for name in ('transforms', 'subroutines'):
        inner = getattr(pipeline, name, [])
        if not isinstance(inner, list):  # a Compose
            inner = [inner]
        inner[:] = [t for t in inner
                    if not type(t).__name__.startswith('LoadAnnotations')]
        for transform in inner:
            remove_annotations(transform)

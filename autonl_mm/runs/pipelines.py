# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Pipelines of built datasets."""
from typing import Any


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

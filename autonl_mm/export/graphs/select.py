# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The function that picks a graph for a model."""
import torch.nn as nn

from .classification import ClassifierGraph
from .detection import DetectorGraph
from .segmentation import LabelMapGraph, SegmentorGraph


def graph_type(model: nn.Module, labels: bool = False) -> type:
    """The graph for a model.

    Args:
        model (nn.Module): A task model of mmpretrain, mmdet or mmseg.
        labels (bool): Whether a segmentor is to give label maps. Defaults to
            False, logits.

    Returns:
        type: A :class:`TaskGraph`.

    Raises:
        ValueError: If there is none; says what there is.
    """
    if hasattr(model, 'encode_decode'):
        return LabelMapGraph if labels else SegmentorGraph
    if labels:
        raise ValueError(f'label maps are for segmentors, the model is a '
                         f'{type(model).__name__}')
    if hasattr(model, 'bbox_head'):
        DetectorGraph.check(model)
        return DetectorGraph
    if hasattr(model, 'head') and hasattr(model, 'extract_feat'):
        return ClassifierGraph
    raise ValueError(
        f'{type(model).__name__} cannot be exported: expected a classifier of '
        'mmpretrain, an encoder-decoder of mmseg or a single-stage detector '
        'of mmdet')

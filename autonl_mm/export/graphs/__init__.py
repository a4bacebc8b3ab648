# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graphs of task models, from which all engines start."""
import torch.nn as nn

from .base import Preprocess, TaskGraph
from .classification import ClassifierGraph
from .detection import DetectorGraph, RawDetectorGraph
from .segmentation import LabelMapGraph, SegmentorGraph

__all__ = [
    'ClassifierGraph', 'DetectorGraph', 'LabelMapGraph', 'Preprocess',
    'RawDetectorGraph', 'SegmentorGraph', 'TaskGraph', 'graph_type'
]


def graph_type(model: nn.Module, labels: bool = False,
               selects_boxes: bool = True) -> type:
    """Select the class of the graph for a model.

    Args:
        model (nn.Module): A task model of mmpretrain, mmdet or mmseg.
        labels (bool): Whether a segmentor gives label maps instead of logits.
            Defaults to False.
        selects_boxes (bool): Whether NMS is in a detector's graph. Defaults to True.

    Returns:
        type: A subclass of :class:`TaskGraph`.

    Raises:
        ValueError: If the model cannot be exported; says which models can.
    """
    if hasattr(model, 'encode_decode'):
        SegmentorGraph.check(model)
        return LabelMapGraph if labels else SegmentorGraph
    if labels:
        raise ValueError(f'label maps are for segmentors, the model is a '
                         f'{type(model).__name__}')
    if hasattr(model, 'bbox_head'):
        DetectorGraph.check(model)
        return DetectorGraph if selects_boxes else RawDetectorGraph
    if hasattr(model, 'head') and hasattr(model, 'extract_feat'):
        ClassifierGraph.check(model)
        return ClassifierGraph
    raise ValueError(
        f'{type(model).__name__} cannot be exported: expected a classifier of '
        'mmpretrain, an encoder-decoder of mmseg or a single-stage detector '
        'of mmdet')

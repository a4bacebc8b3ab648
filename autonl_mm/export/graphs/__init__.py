# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .base import Preprocess, TaskGraph
from .classification import ClassifierGraph
from .detection import DetectorGraph, RawDetectorGraph
from .segmentation import LabelMapGraph, SegmentorGraph
from .select import graph_type

__all__ = [
    'ClassifierGraph', 'DetectorGraph', 'LabelMapGraph', 'Preprocess',
    'RawDetectorGraph', 'SegmentorGraph', 'TaskGraph', 'graph_type'
]

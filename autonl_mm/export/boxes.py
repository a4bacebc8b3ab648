# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""NMS in post-processing, in NumPy: short, to be translated to an app's language."""
from typing import Sequence, Tuple

import numpy as np


def select_boxes(boxes: np.ndarray, scores: np.ndarray, levels: Sequence[int],
                 nms_pre: int, score_thr: float, iou_threshold: float,
                 max_per_img: int, class_agnostic: bool = False,
                 min_bbox_size: float = -1) -> Tuple[np.ndarray, np.ndarray]:
    """Select the boxes of one image, as mmdet's single-stage detectors do.

    1. In each feature map keep the ``nms_pre`` best pairs of box and class with a
       score above ``score_thr``.
    2. Sort all pairs by score. Drop a pair if its box overlaps a better kept box of
       the same class by more than ``iou_threshold``.
    3. Return the first ``max_per_img`` pairs.

    Args:
        boxes (np.ndarray): ``(M, 4)``: x1, y1, x2, y2 in pixels of the image.
        scores (np.ndarray): ``(M, C)``, from 0 to 1.
        levels (Sequence[int]): Number of boxes of each feature map; the sum is M.
        nms_pre (int): See step 1.
        score_thr (float): See step 1.
        iou_threshold (float): Intersection over union, see step 2.
        max_per_img (int): K, see step 3.
        class_agnostic (bool): Whether step 2 ignores the class. Defaults to False.
        min_bbox_size (float): Least width and height in pixels, exclusive; negative
            for no limit. Defaults to -1.

    Returns:
        tuple[np.ndarray, np.ndarray]: ``(K, 5)``: x1, y1, x2, y2, score; and the
        classes ``(K, )``. Unused rows are zeros, with the class -1.
    """
    pairs, start = [], 0
    for count in levels:
        level = scores[start:start + count].ravel()
        found = np.flatnonzero(level > score_thr)
        best = found[np.argsort(-level[found], kind='stable')[:nms_pre]]
        pairs.append(best + start * scores.shape[1])
        start += count
    place, label = np.divmod(np.concatenate(pairs), scores.shape[1])
    score = scores[place, label]
    sides = boxes[place, 2:] - boxes[place, :2]
    if min_bbox_size >= 0:
        keep = (sides > min_bbox_size).all(1)
        place, label, score, sides = place[keep], label[keep], score[keep], sides[keep]
    order = np.argsort(-score, kind='stable')
    place, label, score, sides = place[order], label[order], score[order], sides[order]
    box, area = boxes[place], sides.prod(1)

    dets = np.zeros((max_per_img, 5), np.float32)
    labels = np.full(max_per_img, -1, np.int64)
    left, row = np.arange(len(box)), 0
    while len(left) and row < max_per_img:
        first, left = left[0], left[1:]
        dets[row] = *box[first], score[first]
        labels[row] = label[first]
        row += 1
        corner = np.maximum(box[first, :2], box[left, :2])
        overlap = np.minimum(box[first, 2:], box[left, 2:]) - corner
        overlap = overlap.clip(min=0).prod(1)
        iou = overlap / np.maximum(area[first] + area[left] - overlap, 1e-6)
        other = not class_agnostic and label[left] != label[first]
        left = left[(iou <= iou_threshold) | other]
    return dets, labels

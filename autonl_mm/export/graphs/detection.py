# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graphs of a single-stage detector of mmdet.

In shapes, N is the number of images, C of classes, M of candidates from all
feature maps, and K the maximum number of boxes per image.
"""
from typing import List, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.runs.config_parts import type_name

from .base import TaskGraph


class NonMaxSuppression(torch.autograd.Function):
    """ONNX's NonMaxSuppression of one class."""

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, count: int,
                iou_threshold: float) -> Tensor:
        """Select the boxes to keep in each image, the best first.

        Args:
            boxes (Tensor): ``(N, M, 4)``.
            scores (Tensor): ``(N, 1, M)``; 0 for boxes that are not candidates.
            count (int): Maximum number of boxes per image.
            iou_threshold (float): A box is dropped if its overlap with a
                better one is larger than this.

        Returns:
            Tensor: ``(kept, 3)``: index of the image, 0, index of the box.
        """
        from mmcv.ops import nms
        rows = []
        for i, (box, score) in enumerate(zip(boxes, scores[:, 0])):
            valid = score.gt(0).nonzero()[:, 0]
            if len(valid):
                kept = nms(box[valid], score[valid], iou_threshold)[1][:count]
                rows += [(i, 0, j) for j in valid[kept].tolist()]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)

    @staticmethod
    def symbolic(g, boxes, scores, count: int, iou_threshold: float):
        """The ONNX node."""

        def constant(value, dtype):
            return g.op('Constant', value_t=torch.tensor([value], dtype=dtype))

        return g.op('NonMaxSuppression', boxes, scores,
                    constant(count, torch.long),
                    constant(iou_threshold, torch.float),
                    constant(0., torch.float))


class DetectorGraph(TaskGraph):
    """Images to ``dets (N, K, 5)`` and ``labels (N, K)``.

    A row of ``dets`` holds x1, y1, x2, y2 in pixels of the image, and the score.
    Rows are sorted by score, the best first. Unused rows are zeros with the label
    -1. The graph includes NMS with the settings of the config's ``test_cfg``.
    """

    task = 'detection'
    outputs = ('dets', 'labels')

    @staticmethod
    def check(model: nn.Module) -> None:
        """Refuse an unsupported detector.

        Args:
            model (nn.Module): A detector.

        Raises:
            ValueError: If it is not supported; names the reason.
        """
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        head = model.bbox_head
        kind = type(head)
        if any(
                getattr(kind, name, None) is not getattr(BaseDenseHead, name)
                for name in ('predict', 'predict_by_feat',
                             '_predict_by_feat_single', '_bbox_post_process')):
            raise ValueError(
                f'{kind.__name__} cannot be exported because it has its own '
                'predict methods: expected a head with the predict methods of '
                'BaseDenseHead, such as RetinaHead, SSDHead and RTMDetHead')
        if getattr(model, 'mask_head', None) is not None:
            raise ValueError(f'{type(model).__name__} has a mask_head: only '
                             'boxes can be exported')
        if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels',
                   False):
            raise ValueError(f'{type(head.loss_cls).__name__} computes its own '
                             'scores, which cannot be exported')
        cfg = head.test_cfg
        for name, low in (('nms_pre', 1), ('max_per_img', 1),
                          ('score_thr', 0)):
            value = cfg.get(name, 0)
            if value < low:
                raise ValueError(f'test_cfg.{name} is {value}, expected a '
                                 f'number of at least {low}')
        options = dict(cfg.get('nms') or {})
        if type_name(options) != 'nms' or set(options) - {
                'type', 'iou_threshold', 'class_agnostic', 'split_thr'}:
            raise ValueError(f'test_cfg.nms is {cfg.get("nms")}, expected '
                             "dict(type='nms', iou_threshold=...)")

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """``(N, 3, H, W)`` to ``(N, K, 5)`` and ``(N, K)`` of int64."""
        head = self.model.bbox_head
        levels = map(self._candidates, *self._levels(x))
        scores, labels, priors, deltas = (
            torch.cat(parts, dim=1) for parts in zip(*levels))
        boxes = head.bbox_coder.decode(
            priors.flatten(0, 1), deltas.flatten(0, 1))
        boxes = self._clip(boxes, x).reshape(x.shape[0], -1, 4)
        return self._select(boxes, scores, labels)

    def _levels(self, x: Tensor) -> Tuple[List[Tensor], ...]:
        """Scores, deltas and priors of all feature maps."""
        head = self.model.bbox_head
        outs = head(self.model.extract_feat(self.inputs(x)))
        if len(outs) != 2:
            raise ValueError(
                f'{type(head).__name__} gives {len(outs)} outputs, such as centerness: '
                'only heads that give scores and boxes can be exported')
        cls_scores, bbox_preds = outs
        priors = head.prior_generator.grid_priors(
            [score.shape[2:] for score in cls_scores],
            dtype=cls_scores[0].dtype,
            device=x.device)
        return cls_scores, bbox_preds, priors

    def _scores(self, cls_score: Tensor) -> Tensor:
        """``(N, A * C, h, w)`` to scores ``(N, h * w * A, C)``, from 0 to 1."""
        head = self.model.bbox_head
        scores = cls_score.permute(0, 2, 3, 1).reshape(
            cls_score.shape[0], -1, head.cls_out_channels)
        if head.use_sigmoid_cls:
            return scores.sigmoid()
        return scores.softmax(-1)[..., :-1]

    def _candidates(self, cls_score: Tensor, bbox_pred: Tensor,
                    priors: Tensor) -> Tuple[Tensor, ...]:
        """The best candidates of one feature map.

        Args:
            cls_score (Tensor): ``(N, A * C, h, w)``, for A priors per location.
            bbox_pred (Tensor): ``(N, A * 4, h, w)``.
            priors (Tensor): ``(h * w * A, 4)``, or 2 values for points.

        Returns:
            tuple[Tensor, ...]: Scores and labels ``(N, nms_pre)``, priors and
            deltas ``(N, nms_pre, 4)``. As in mmdet, a candidate is a pair of
            prior and class. Rows without a candidate have the score 0.
        """
        head = self.model.bbox_head
        count = head.test_cfg.nms_pre
        n = cls_score.shape[0]
        scores = self._scores(cls_score)
        num_classes = head.num_classes
        scores = scores * scores.gt(head.test_cfg.get('score_thr', 0))
        # Padded, so that topk always finds this many.
        scores, index = F.pad(scores.flatten(1), (0, count)).topk(count)
        index = index * scores.gt(0)
        labels, place = index % num_classes, index // num_classes
        deltas = bbox_pred.permute(0, 2, 3, 1).reshape(n, -1, 4)
        deltas = deltas.gather(1, place.unsqueeze(-1).expand(-1, -1, 4))
        return scores, labels, priors[place], deltas

    def _clip(self, boxes: Tensor, x: Tensor) -> Tensor:
        """Clip boxes to the image if the box coder does."""
        if not self.model.bbox_head.bbox_coder.clip_border:
            return boxes
        h, w = x.shape[2:]
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([
            x1.clamp(min=0, max=w), y1.clamp(min=0, max=h),
            x2.clamp(min=0, max=w), y2.clamp(min=0, max=h)
        ], -1)

    def _select(self, boxes: Tensor, scores: Tensor,
                labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Non-maximum suppression, for each class separately.

        Args:
            boxes (Tensor): ``(N, M, 4)``.
            scores (Tensor): ``(N, M)``.
            labels (Tensor): ``(N, M)``.

        Returns:
            tuple[Tensor, Tensor]: ``(N, K, 5)`` and ``(N, K)``.
        """
        cfg = self.model.bbox_head.test_cfg
        count = cfg.max_per_img
        if cfg.get('min_bbox_size', -1) >= 0:
            sides = boxes[..., 2:] - boxes[..., :2]
            scores = scores * sides.gt(cfg.min_bbox_size).all(-1)
        apart = boxes
        if not cfg.nms.get('class_agnostic', False):
            # As in mmcv, an offset keeps boxes of different classes apart.
            offset = boxes.amax((1, 2), keepdim=True) + 1
            apart = boxes + labels.unsqueeze(-1) * offset
        image, _, box = NonMaxSuppression.apply(
            apart, scores.unsqueeze(1), count,
            cfg.nms.iou_threshold).unbind(1)
        kept = torch.zeros_like(scores).index_put(
            (image, box), scores[image, box])
        best, index = F.pad(kept, (0, count)).topk(count)
        valid = best.gt(0)
        index = index * valid
        boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        labels = labels.gather(1, index)
        dets = torch.cat([boxes * valid.unsqueeze(-1), best.unsqueeze(-1)], -1)
        return dets, labels.where(valid, -torch.ones_like(labels))

    @staticmethod
    def reference(model: nn.Module, images: Tensor) -> List[Tensor]:
        """Predictions of mmdet's own code, in the form of this graph's outputs."""
        from mmdet.structures import DetDataSample
        size = tuple(images.shape[2:])
        samples = [
            DetDataSample(metainfo=dict(
                img_shape=size, ori_shape=size, scale_factor=(1., 1.)))
            for _ in images
        ]
        samples = model.test_step(
            dict(inputs=list(images), data_samples=samples))
        count = model.bbox_head.test_cfg.max_per_img
        dets = images.new_zeros(len(samples), count, 5)
        labels = torch.full((len(samples), count), -1)
        for i, sample in enumerate(samples):
            found = sample.pred_instances
            dets[i, :len(found), :4] = found.bboxes
            dets[i, :len(found), 4] = found.scores
            labels[i, :len(found)] = found.labels
        return [dets, labels]

    def agreement(self, got: Sequence[Tensor],
                  expected: Sequence[Tensor]) -> Tuple[int, int]:
        """Count boxes found again: same label and an overlap of more than a half.

        Returns:
            tuple[int, int]: Number of the reference's boxes that are found, and number
            of all its boxes.

        Raises:
            ValueError: If nothing was detected.
        """
        from mmdet.structures.bbox import bbox_overlaps
        self._check_detections(expected)
        found = total = 0
        for dets, labels, others, other_labels in zip(*expected, *got):
            valid, other = labels >= 0, other_labels >= 0
            overlaps = bbox_overlaps(dets[valid, :4], others[other, :4])
            overlaps[labels[valid, None] != other_labels[other]] = 0
            total += int(valid.sum())
            found += int((overlaps > 0.5).any(1).sum())
        return found, total

    @staticmethod
    def _check_detections(expected: Sequence[Tensor]) -> None:
        """Refuse a reference without boxes."""
        if not expected[1].ge(0).any():
            raise ValueError(
                'nothing was detected in the images of the check, so there is '
                'nothing to compare: give images with objects by --images, or '
                'lower model.test_cfg.score_thr or '
                'model.bbox_head.test_cfg.score_thr by --cfg-options')

    def difference(self, got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """Largest difference between a box and the nearest box of the same label.

        Boxes are compared by corners and score, in both directions, so the order of
        equal scores does not matter. If a box is missing because its score is below
        the threshold or the list is full, the difference is the score's distance to
        that limit.

        Returns:
            tuple[float, float]: The largest difference of scores, or of
            coordinates relative to the largest coordinate; and 1, its scale.

        Raises:
            ValueError: If nothing was detected.
        """
        self._check_detections(expected)
        scale = torch.full((5, ), expected[0][..., :4].max().item())
        scale[4] = 1.
        worst = 0.
        for pair in zip(*got, *expected):
            worst = max(worst, self._farthest(*pair, scale),
                        self._farthest(*pair[2:], *pair[:2], scale))
        return worst, 1.

    def _farthest(self, dets: Tensor, labels: Tensor, others: Tensor,
                  other_labels: Tensor, scale: Tensor) -> float:
        """Largest distance of a box to the nearest box of the second list."""
        floor = self.model.bbox_head.test_cfg.get('score_thr', 0)
        if other_labels.ge(0).all():
            floor = others[:, 4].min()
        valid = labels >= 0
        apart = ((dets[valid, None] - others) / scale).abs().amax(-1)
        apart[labels[valid, None] != other_labels] = float('inf')
        below = (dets[valid, 4:] - floor).clamp(min=0)
        nearest = torch.cat([apart, below], 1).amin(1)
        return nearest.max().item() if valid.any() else 0.


class RawDetectorGraph(DetectorGraph):
    """Images to ``boxes (N, M, 4)`` and ``scores (N, M, C)``, for NMS afterwards.

    :func:`autonl_mm.export.boxes.select_boxes` turns them into the outputs of
    :class:`DetectorGraph`, with the settings of :meth:`select`. Boxes are in pixels of
    the image.
    """

    outputs = ('boxes', 'scores')

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """``(N, 3, H, W)`` to ``(N, M, 4)`` and ``(N, M, C)``."""
        coder, n = self.model.bbox_head.bbox_coder, x.shape[0]
        scores, boxes = [], []
        for cls_score, bbox_pred, priors in zip(*self._levels(x)):
            scores.append(self._scores(cls_score))
            deltas = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4)
            boxes.append(coder.decode(priors.repeat(n, 1), deltas).view(n, -1, 4))
        return self._clip(torch.cat(boxes, 1), x), torch.cat(scores, 1)

    def select(self, shape: Sequence[int]) -> dict:
        """Settings of ``select_boxes``, for images of ``(N, 3, H, W)``."""
        cfg = self.model.bbox_head.test_cfg
        with torch.no_grad():
            priors = self._levels(torch.zeros(1, *shape[1:]))[2]
        return dict(
            levels=[len(p) for p in priors],
            nms_pre=cfg.nms_pre,
            score_thr=cfg.get('score_thr', 0),
            iou_threshold=cfg.nms.iou_threshold,
            max_per_img=cfg.max_per_img,
            class_agnostic=bool(cfg.nms.get('class_agnostic', False)),
            min_bbox_size=cfg.get('min_bbox_size', -1))

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The negative log-likelihood as a metric, for classifiers and segmentors."""
from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric

from autonl_mm.registry import METRICS


@METRICS.register_module()
class NLL(BaseMetric):
    """Mean negative log-likelihood of the labels, in nats.

    It uses the scores of all images or pixels, so that it scatters less from run to run
    than the accuracy. It has no label smoothing and no class weights.

    Args:
        ignore_index (int): Label of pixels that do not count. Defaults to 255.
        collect_device (str): As for mmengine's ``BaseMetric``. Defaults to ``'cpu'``.
    """

    default_prefix = 'nll'

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu'):
        super().__init__(collect_device)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add a batch.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): Predictions of mmpretrain, with one label
                each, or of mmseg.
        """
        for sample in data_samples:
            if 'seg_logits' in sample:
                scores = sample['seg_logits']['data'].float().log_softmax(0)[None]
                labels, ignored = sample['gt_sem_seg']['data'].long(), self.ignore_index
            else:
                # The scores are probabilities, of which one may be zero.
                scores = sample['pred_score'].float()
                scores = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()[None]
                # All images count: 255 may be the label of a class.
                labels, ignored = sample['gt_label'].long(), -1
            losses = F.nll_loss(scores, labels.to(scores.device), reduction='none',
                                ignore_index=ignored)
            self.results.append((losses.sum().item(), (labels != ignored).sum().item()))

    def compute_metrics(self, results: List[Tuple[float, int]]) -> dict:
        """From sums and numbers of labels of all images to ``nll/mean``."""
        totals, counts = zip(*results)
        return dict(mean=sum(totals) / sum(counts))

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from autonl_mm.measure.nll import NLL


def test_of_images():
    """mmpretrain's predictions are probabilities; one of zero costs a finite loss."""
    metric = NLL()
    metric.process({}, [
        dict(pred_score=torch.tensor([0.5, 0.25, 0.25]), gt_label=torch.tensor([0])),
        dict(pred_score=torch.tensor([0.5, 0.25, 0.25]), gt_label=torch.tensor([2]))])
    assert metric.evaluate(2) == {
        'nll/mean': pytest.approx(1.5 * torch.log(torch.tensor(2.)).item())}
    metric.process({}, [
        dict(pred_score=torch.tensor([1., 0.]), gt_label=torch.tensor([1]))])
    assert 80 < metric.evaluate(1)['nll/mean'] < 90
    # the number that marks pixels without a label is a class of ImageNet
    metric.process({}, [
        dict(pred_score=torch.full((1000, ), 1e-3), gt_label=torch.tensor([255]))])
    assert metric.evaluate(1) == {'nll/mean': pytest.approx(math.log(1000))}


def test_of_pixels():
    """All pixels of all images count alike, except for those without a label."""
    metric = NLL()
    want, count = 0, 0
    for size in (2, 5):
        logits = torch.randn(4, size, 3)
        labels = torch.randint(0, 4, (1, size, 3))
        labels[0, 0, 0] = 255
        chosen = labels[0] != 255
        want -= logits.log_softmax(0).gather(
            0, labels.where(labels != 255, 0))[0][chosen].sum()
        count += chosen.sum()
        metric.process({}, [dict(seg_logits=dict(data=logits),
                                 gt_sem_seg=dict(data=labels))])
    assert metric.evaluate(2) == {'nll/mean': pytest.approx((want / count).item())}

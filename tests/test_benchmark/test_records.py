# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Records of training runs."""
import pytest

from autonl_mm.benchmark.records import metric_of


@pytest.mark.parametrize('logged, usual', [
    (('accuracy/top1', 'accuracy/top5'), 'accuracy/top1'),
    (('coco/bbox_mAP', 'coco/bbox_mAP_50'), 'coco/bbox_mAP'),
    # mmseg logs the accuracy of pixels first
    (('aAcc', 'mIoU', 'mAcc'), 'mIoU'),
])
def test_the_usual_metric(logged, usual):
    assert metric_of([dict.fromkeys(logged, 1.)]) == usual


def test_another_metric():
    record = dict(aAcc=1., mIoU=1.)
    assert metric_of([record], 'aAcc') == 'aAcc'
    with pytest.raises(ValueError, match=r"'mAP' was not logged.*aAcc"):
        metric_of([record], 'mAP')

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Records of training runs."""
import pytest

from autonl_mm.runs.scalars import metric_of, read_scalars


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


@pytest.mark.parametrize('line, words', [
    ('{"step": [1], "loss": 1}', r'step is \[1\], expected an integer'),
    ('{"step": 1, "loss": "a"}', "loss is 'a', expected a number")])
def test_records_with_other_values(line, words, tmp_path):
    folder = tmp_path / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('{"step": 1, "loss": NaN}\n')
    assert len(read_scalars(tmp_path)[0]) == 1
    (folder / 'scalars.json').write_text(f'{{"step": 1, "loss": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=rf'^line 2 of .*scalars\.json.*{words}'):
        read_scalars(tmp_path)

_base_ = [
    '../_base_/models/fpn_autonl-s.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/poly_sgd_80k.py',
    '../_base_/mmseg_iter_runtime.py',
]

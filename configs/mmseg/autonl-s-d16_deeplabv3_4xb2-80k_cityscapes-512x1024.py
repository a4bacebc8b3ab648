_base_ = [
    '../_base_/models/deeplabv3_autonl-s.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/poly_sgd_80k.py',
    '../_base_/mmseg_iter_runtime.py',
]

_base_ = [
    '../_base_/models/deeplabv3_autonl-s.py',
    '../_base_/datasets/pascal_voc12_aug_512x512.py',
    '../_base_/schedules/poly_sgd_80k.py',
    '../_base_/mmseg_iter_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN')),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
param_scheduler = dict(end=40000)
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))

_base_ = 'rtmdet-tiny_autonl-s_8xb32-300e_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),
        norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=[32, 96, 320]))

_base_ = 'faster-rcnn_autonl-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=[24, 32, 96, 320]))

_base_ = 'autonl-s_fpn_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=[24, 32, 96, 320]))

_base_ = 'autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[24, 32, 96, 320]))

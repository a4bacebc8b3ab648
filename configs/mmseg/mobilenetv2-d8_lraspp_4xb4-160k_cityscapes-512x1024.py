_base_ = 'autonl-s-d8_lraspp_4xb4-160k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(0, 1, 6),
        norm_cfg=dict(type='SyncBN')))

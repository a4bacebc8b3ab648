_base_ = 'autonl-s_32xb128_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.EfficientNet',
        arch='b0',
        norm_cfg=dict(type='BN', momentum=0.01, eps=1e-3)),
    head=dict(in_channels=1280))

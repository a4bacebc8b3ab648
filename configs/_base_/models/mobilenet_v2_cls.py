# MobileNetV2 as a classifier, with the BN settings and the dropout of the releases.
_base_ = 'autonl_cls.py'

norm_cfg = dict(type='BN', momentum=0.01, eps=1e-3)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileNetV2',
        widen_factor=1.0,
        norm_cfg=norm_cfg))

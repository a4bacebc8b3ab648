_base_ = 'autonl-s_32xb128_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileNetV3',
        arch='large',
        norm_cfg=dict(type='BN', momentum=0.01, eps=1e-3)),
    neck=dict(dropout=0.),
    # 1x1 convolution to 1280 after the pooling, with h-swish
    head=dict(
        _delete_=True,
        type='StackedLinearClsHead',
        num_classes=1000,
        in_channels=960,
        mid_channels=[1280],
        dropout_rate=0.2,
        act_cfg=dict(type='HSwish'),
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)))

# AutoNL-S as a classifier: pooling with dropout 0.2, linear layer.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='autonl_mm.AutoNL', arch='s'),
    neck=dict(type='autonl_mm.PoolDropout', dropout=0.2),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        # uniform in +-1/sqrt(num_classes), as in the releases
        init_cfg=dict(
            type='Uniform', layer='Linear', a=-1000**-0.5, b=1000**-0.5),
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)))

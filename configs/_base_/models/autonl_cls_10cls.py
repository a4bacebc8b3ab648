# For short runs with ten classes.
_base_ = 'autonl_cls.py'

model = dict(
    # In a run of some hundred iterations, BN statistics with the releases' momentum of
    # 0.01 would lag behind.
    backbone=dict(norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    head=dict(
        num_classes=10,
        topk=(1, ),
        # With ten classes, the releases' uniform rule would start at a loss of 4.
        init_cfg=dict(
            _delete_=True, type='Normal', layer='Linear', std=0.01)))

# AutoNL-S on the demo digits, for two CPU cores.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/demo_cls_bs32.py',
    '../_base_/mmpretrain_runtime.py',
]

max_epochs = 10
model = dict(
    backbone=dict(norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    head=dict(
        num_classes=10,
        topk=(1, ),
        # The releases' uniform rule would start ten classes at a loss of 4.
        init_cfg=dict(
            _delete_=True, type='Normal', layer='Linear', std=0.01)))
optim_wrapper = dict(
    # One group of parameters, which the fused step needs to be fast.
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05, fused=True))
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=4e-3,
    pct_start=0.2,
    total_steps=max_epochs,
    by_epoch=True,
    convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)

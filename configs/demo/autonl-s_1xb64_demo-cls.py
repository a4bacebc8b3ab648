# AutoNL-S on the demo digits, for two CPU cores.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/demo_cls_bs64.py',
    '../_base_/mmpretrain_runtime.py',
]

max_epochs = 6
model = dict(
    backbone=dict(norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    head=dict(
        num_classes=10,
        topk=(1, ),
        init_cfg=dict(a=-10**-0.5, b=10**-0.5)))
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=3e-3,
    pct_start=0.2,
    total_steps=max_epochs,
    by_epoch=True,
    convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)

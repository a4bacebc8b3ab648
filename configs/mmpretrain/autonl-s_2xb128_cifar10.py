# 5 epochs from scratch, sized for two CPU cores: one process of batch 128 or
# two. AdamW's rate of 3e-3 serves both; --auto-scale-lr scales it from 256.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/mmpretrain_runtime.py',
]

max_epochs = 5
model = dict(
    # Statistics with the releases' momentum of 0.01 would lag behind in a run
    # of some hundred iterations.
    backbone=dict(norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    head=dict(
        num_classes=10,
        topk=(1, ),
        # The releases' uniform rule would start ten classes at a loss of 4.
        init_cfg=dict(
            _delete_=True, type='Normal', layer='Linear', std=0.01)))
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
auto_scale_lr = dict(base_batch_size=256)
randomness = dict(seed=0)

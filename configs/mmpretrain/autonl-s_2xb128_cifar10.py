# 5 epochs from scratch, sized for two CPU cores. Its learning rate was chosen
# for one process of batch 128; --auto-scale-lr fits it to more.
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
auto_scale_lr = dict(base_batch_size=128)
randomness = dict(seed=0)

# 5 epochs from scratch, for two CPU cores: one or two processes with batch size 128.
# AdamW's learning rate of 3e-3 works for both; --auto-scale-lr scales it from 256.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

optim_wrapper = dict(
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
auto_scale_lr = dict(base_batch_size=256)
randomness = dict(seed=0)

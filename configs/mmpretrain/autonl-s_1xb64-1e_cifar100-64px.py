# From scratch, to compare with autonl-s_remapped_1xb64-1e_cifar100-64px.py.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/cifar100_bs64_64px.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(head=dict(num_classes=100))
optim_wrapper = dict(
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(total_steps=1)
train_cfg = dict(max_epochs=1)
randomness = dict(seed=0)

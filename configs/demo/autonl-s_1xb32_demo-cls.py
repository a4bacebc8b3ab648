# AutoNL-S on the demo digits, for two CPU cores.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/demo_cls_bs32.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

max_epochs = 6
# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
# A single parameter group: the fused step is fast only with few groups.
optim_wrapper = dict(optimizer=dict(lr=4e-3, fused=True))
param_scheduler = dict(eta_max=4e-3, total_steps=max_epochs)
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
randomness = dict(seed=0)

# Retrains for two epochs, from scratch at 32x32, a network that
# autonl-supernet_1xb64_cifar10.py found; tools/export_arch.py --config writes
# a config that puts another one here.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/cifar10_bs128_32px.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

# On a CPU depthwise convolutions are about twice as fast in this layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(out_indices=(-1, ), arch=[
        'r1_k3_s11_e1_i16_o16',
        'r1_k5_s11_e3_i16_o24',
        'r1_k3_s11_e3_i24_o24',
        'r1_k5_s22_e3_i24_o40_se0.5',
        'r1_k5_s11_e3_i40_o40',
        'r1_k5_s22_e3_i40_o80_nonlocal0.125-1',
        'r1_k5_s11_e3_i80_o80_nonlocal0.25-1',
        'r1_k5_s11_e3_i80_o80_nonlocal0.125-2',
        'head320',
    ]),
    head=dict(in_channels=320))
optim_wrapper = dict(
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(total_steps=2)
train_cfg = dict(max_epochs=2, val_interval=2)
train_dataloader = dict(batch_size=64)
randomness = dict(seed=0)

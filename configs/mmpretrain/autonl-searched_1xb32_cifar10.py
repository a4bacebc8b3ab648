# Retrains a network that autonl-supernet_1xb32_cifar10.py found, for three epochs
# from scratch at 32x32. tools/export_arch.py --config writes a variant of this config
# with another network.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/cifar10_bs128_32px.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(out_indices=(-1, ), arch=[
        'r1_k3_s11_e1_i16_o16',
        'r1_k3_s11_e6_i16_o24_se0.25_nonlocal0.25-1',
        'r1_k3_s11_e3_i24_o24_se0.5_nonlocal0.125-2',
        'r1_k5_s22_e3_i24_o40_se0.5',
        'r1_k5_s11_e3_i40_o40_se0.25',
        'r1_k5_s22_e6_i40_o80_se0.25_nonlocal0.125-2',
        'r1_k5_s11_e3_i80_o80_se0.5_nonlocal0.125-1',
        'head320',
        'scale-rms',
    ]),
    # In three epochs it does not overfit.
    neck=dict(dropout=0.),
    head=dict(in_channels=320))
optim_wrapper = dict(optimizer=dict(lr=6e-3))
param_scheduler = dict(eta_max=6e-3, total_steps=3)
train_cfg = dict(max_epochs=3, val_interval=3)
train_dataloader = dict(batch_size=32)
randomness = dict(seed=0)

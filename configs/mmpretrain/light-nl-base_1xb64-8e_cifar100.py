# The network of light-nl-steps_1xb32_cifar10.py without any block, on CIFAR-100 at
# 32x32: a base for light-nl-forms_1xb64-3e_cifar100.py. The images to select by are
# evaluated.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/cifar100_bs64_32px.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmpretrain_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(
        out_indices=(-1, ),
        arch=[
            'r1_k3_s11_e1_i16_o16',
            'r1_k3_s11_e3_i16_o24',
            'r1_k3_s11_e3_i24_o24',
            'r1_k3_s22_e3_i24_o40',
            'r1_k3_s11_e3_i40_o40',
            'r1_k3_s22_e3_i40_o80',
            'r2_k3_s11_e3_i80_o80',
            'head320',
        ]),
    neck=dict(dropout=0.),
    head=dict(num_classes=100, in_channels=320))
optim_wrapper = dict(
    optimizer=dict(lr=6e-3),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(eta_max=6e-3, total_steps=8)
train_cfg = dict(max_epochs=8, val_interval=8)
val_dataloader = dict(dataset=dict(data_prefix='select'))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=(1, )),
    dict(type='autonl_mm.NLL'),
]
test_evaluator = val_evaluator
randomness = dict(seed=0)

# AutoNL-S in a RetinaNet on scenes of handwritten digits, for two CPU cores.
# `make demo` starts it from the classifier of autonl-s_1xb32_demo-cls.py.
_base_ = [
    '../_base_/models/retinanet_small.py',
    '../_base_/datasets/demo_det_bs8.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmdet_runtime.py',
]

max_epochs = 6
# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(3, 5),
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    # without the feature map at stride 4, which would double the time
    neck=dict(in_channels=[40, 96], num_outs=3),
    bbox_head=dict(
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32])))
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, fused=True), clip_grad=dict(max_norm=10))
param_scheduler = dict(eta_max=2e-3, total_steps=max_epochs)
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
randomness = dict(seed=0)

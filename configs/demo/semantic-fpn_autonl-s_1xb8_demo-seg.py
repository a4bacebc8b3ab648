# AutoNL-S in a Semantic FPN on scenes of handwritten digits, for two CPU
# cores. `make demo` starts it from the classifier of autonl-s_1xb32_demo-cls.py.
_base_ = [
    '../_base_/models/semantic_fpn_small.py',
    '../_base_/datasets/demo_seg_bs8.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmseg_runtime.py',
]

max_epochs = 6
# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(2, 3, 5),
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    neck=dict(in_channels=[24, 40, 96]),
    # Nine of ten pixels are background. The mean of these weights over the pixels is
    # one. reduction='none' leaves the mean to the runner: mmseg's own reads the weight
    # of ignored pixels and fails.
    decode_head=dict(
        loss_decode=dict(
            class_weight=[3.6] * 10 + [0.7], reduction='none')))
optim_wrapper = dict(optimizer=dict(fused=True))
param_scheduler = dict(total_steps=max_epochs)
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
randomness = dict(seed=0)

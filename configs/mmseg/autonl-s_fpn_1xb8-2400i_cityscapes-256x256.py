# A short run for two CPU cores, with small images, a narrow FPN and a narrow head.
# It also works for CamVid in Cityscapes' layout, see the README.
_base_ = [
    '../_base_/models/fpn_autonl-s.py',
    '../_base_/datasets/cityscapes_256x256.py',
    '../_base_/schedules/adamw_onecycle_2400i.py',
    '../_base_/mmseg_iter_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    # In such a short run, BN statistics with a momentum of 0.01 would lag behind.
    backbone=dict(norm_cfg=dict(type='BN', momentum=0.1)),
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64], channels=64, norm_cfg=dict(type='BN')))
default_hooks = dict(checkpoint=dict(interval=400))
randomness = dict(seed=0)

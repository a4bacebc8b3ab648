# A Semantic FPN for a few photographs of your own and two CPU cores. Paths, classes and
# the number of epochs come from tools/dataset_converters/own_data.py.
_base_ = [
    '../models/semantic_fpn_small.py',
    '../schedules/adamw_onecycle_5e.py',
    '../mmseg_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
crop_size = (256, 256)
model = dict(
    data_preprocessor=dict(
        mean=[127., 127., 127.], std=[128., 128., 128.], size=crop_size),
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(2, 3, 5, 7),
        # In such a short run, BN statistics with a momentum of 0.01 would lag behind.
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    neck=dict(in_channels=[24, 40, 96, 320], num_outs=4),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32]))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(640, 320),
        ratio_range=(0.8, 1.5),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(640, 320), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(eta_max=1e-3)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)

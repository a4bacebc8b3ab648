# A RetinaNet for a few photographs of your own and two CPU cores. Paths, classes and
# the number of epochs come from tools/dataset_converters/own_data.py.
_base_ = [
    '../models/retinanet_small.py',
    '../schedules/adamw_onecycle_5e.py',
    '../mmdet_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    data_preprocessor=dict(mean=[127., 127., 127.], std=[128., 128., 128.]),
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(3, 5, 7),
        # In such a short run, BN statistics with a momentum of 0.01 would lag behind.
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)),
    # without the feature map at stride 4, which would double the time
    neck=dict(in_channels=[40, 96, 320], norm_cfg=dict(type='BN')),
    bbox_head=dict(
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(
            octave_base_scale=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64])))

scale = (320, 320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=scale,
        ratio_range=(0.8, 1.2),
        keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        # images without boxes show what is none of the classes
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10))
param_scheduler = dict(eta_max=1e-3)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)

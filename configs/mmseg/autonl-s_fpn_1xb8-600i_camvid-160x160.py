# From scratch, to compare with autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py.
_base_ = 'autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py'

data = dict(data_root='data/camvid', img_suffix='_leftImg8bit.jpg')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(720, 360),
        ratio_range=(0.75, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 160), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=(160, 160)))
param_scheduler = dict(total_steps=600)
train_cfg = dict(max_iters=600, val_interval=150)
default_hooks = dict(checkpoint=dict(interval=150))

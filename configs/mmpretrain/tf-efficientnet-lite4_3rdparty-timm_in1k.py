_base_ = 'tf-efficientnet-lite0_3rdparty-timm_in1k.py'

model = dict(backbone=dict(arch='tf_efficientnet_lite4'))
train_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip'),
    dict(type='EfficientNetRandomCrop', scale=380, interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='EfficientNetCenterCrop',
        crop_size=380,
        interpolation='bilinear',
        backend='pillow'),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

_base_ = 'mnasnet-100_3rdparty-timm_in1k.py'

model = dict(backbone=dict(arch='spnasnet_100'))
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='EfficientNetCenterCrop',
        crop_size=224,
        interpolation='bilinear',
        backend='pillow'),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

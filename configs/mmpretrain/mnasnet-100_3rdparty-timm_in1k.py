# MnasNet-B1 for timm's weights. Test images are resized as by timm, see docs/zoo.md.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/imagenet_rmsprop_350e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(backbone=dict(arch='mnasnet_100'))
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='EfficientNetCenterCrop',
        crop_size=224,
        interpolation='bicubic',
        backend='pillow'),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

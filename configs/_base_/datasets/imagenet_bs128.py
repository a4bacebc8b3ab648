# ImageNet as in both releases: Inception-style crops at 224 with bicubic resize for
# training, and a centre crop of int(224 / 256 * shorter side) for evaluation.
dataset_type = 'ImageNet'
data_root = 'data/imagenet'
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip'),
    dict(type='EfficientNetRandomCrop', scale=224, interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='EfficientNetCenterCrop',
        crop_size=224,
        interpolation='bicubic'),
    dict(type='PackInputs'),
]
# for test.py --tta: the image and its mirror image
tta_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='EfficientNetCenterCrop',
                    crop_size=224,
                    interpolation='bicubic')
            ],
            [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
            [dict(type='PackInputs')],
        ]),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

# CIFAR-10's training images as a folder, one subfolder per class, enlarged
# from 32x32 to 64x64. The last 5,000 of a fixed shuffle are held out.
dataset_type = 'autonl_mm.HoldoutFolder'
data_root = 'data/cifar10'
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='PackInputs'),
]
# for test.py --tta: the image and its mirror image
tta_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=64, interpolation='bicubic')],
            [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
            [dict(type='PackInputs')],
        ]),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='train',
        holdout=5000,
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=250,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='train',
        holdout=5000,
        split='val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

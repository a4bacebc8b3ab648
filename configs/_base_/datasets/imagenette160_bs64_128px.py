# Imagenette: ten classes of ImageNet, images with a shorter side of 160 pixels,
# trained and evaluated at 128x128. Folders: data/imagenette160/{train,val}/<class>/*,
# as in its authors' archive imagenette2-160. Images are loaded in the training
# process, because on two cores workers cost more time than they save.
dataset_type = 'CustomDataset'
data_root = 'data/imagenette160'
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip'),
    dict(
        type='RandomResizedCrop',
        scale=128,
        crop_ratio_range=(0.35, 1.0),
        interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
# For the first epochs of a training
train_pipeline_64, train_pipeline_96 = ([
    dict(step, scale=size) if 'scale' in step else step for step in train_pipeline
] for size in (64, 96))
# Networks see objects smaller in training crops than in centre crops of one scale;
# 144 to 128 is the ratio of the releases, 224 + 32 to 224.
test_pipeline = [
    dict(type='autonl_mm.LoadImageOrSkip', skip=False),
    dict(type='ResizeEdge', scale=144, edge='short', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix='val',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

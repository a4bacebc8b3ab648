# To choose settings for fine-tuning from trained weights. 96 training images are held
# out and evaluated; the validation images decide nothing.
_base_ = 'autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py'

images = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=images,
        holdout=96,
        split='train'))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=dict(images, pipeline=_base_.val_dataloader.dataset.pipeline),
        holdout=96,
        split='val'))
test_dataloader = val_dataloader
# These schedulers keep the multipliers of learning rates; OneCycleLR would not.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=50, end=200, by_epoch=False),
]
train_cfg = dict(max_iters=200, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))

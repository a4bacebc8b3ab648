# Forms of LightNL in EfficientNet-Lite0, each trained from the same weights as the
# network without a block, tf-efficientnet-lite0_fpn_1xb8-600i_camvid-160x160.py.
# tools/benchmarks/compare_steps.py --fork trains them.
_base_ = [
    'tf-efficientnet-lite0_fpn_1xb8-600i_camvid-160x160.py',
    '../_base_/models/light-nl_forms.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=_base_.model.backbone,
        plugins=_base_.steps.bounded),
    # Its random numbers would not be the same for all forms.
    decode_head=dict(dropout_ratio=0))
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), paramwise_cfg=_base_.paramwise_cfg)
# These schedulers keep the larger learning rate; OneCycleLR would not.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=50, end=300, by_epoch=False),
]
# PreciseBNHook loads by the sampler of the training, which must end.
train_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='autonl_mm.NLL'),
]
test_evaluator = val_evaluator
custom_hooks = [
    dict(type='autonl_mm.ChannelsLastHook'),
    # BN's statistics are those of the last weights when these are evaluated.
    dict(type='mmpretrain.PreciseBNHook', num_samples=512, interval=300),
]

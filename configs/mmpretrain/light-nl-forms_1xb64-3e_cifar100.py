# Forms of LightNL, each trained from the same weights as the network without a block,
# light-nl-base_1xb64-8e_cifar100.py. tools/benchmarks/compare_steps.py --fork trains
# them. Evaluated on the images to select by; for the final figure:
# --cfg-options val_dataloader.dataset.data_prefix=final
_base_ = [
    'light-nl-base_1xb64-8e_cifar100.py',
    '../_base_/models/light-nl_forms.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=_base_.model.backbone,
        plugins=_base_.steps.bounded))
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=_base_.paramwise_cfg)
# These schedulers keep the larger learning rate; OneCycleLR would not.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        begin=0,
        end=0.5,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=0.5,
        end=3,
        by_epoch=True,
        convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=3, val_interval=3)
custom_hooks = [
    dict(type='autonl_mm.ChannelsLastHook'),
    # BN's statistics are those of the last weights when these are evaluated.
    dict(type='PreciseBNHook', num_samples=4096, interval=3),
]

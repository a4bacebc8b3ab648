# LAMB with binary cross entropy, mixing and repeated augmentation, after
# "ResNet strikes back" (arXiv 2110.00476, procedure A2). It is longer, because small
# networks benefit from longer training, and has the EMA of the releases.
max_epochs = 450
optim_wrapper = dict(
    optimizer=dict(type='Lamb', lr=0.01, weight_decay=0.02),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - 5,
        eta_min=1e-6,
        by_epoch=True,
        begin=5,
        end=max_epochs),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4096)
custom_hooks = [
    dict(
        type='autonl_mm.BatchScaledEMAHook',
        momentum=1e-4,
        base_batch_size=4096)
]

# For runs of some minutes with a few thousand images: SGD with one cycle. To change the
# number of epochs, set param_scheduler.total_steps and train_cfg.max_epochs.
optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=0.1,
    pct_start=0.25,
    total_steps=10,
    by_epoch=True,
    convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
val_cfg = dict()
test_cfg = dict()

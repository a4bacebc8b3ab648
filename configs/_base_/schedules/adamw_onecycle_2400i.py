# Like adamw_onecycle_5e.py, but counted in iterations. To change their number, set
# param_scheduler.total_steps and train_cfg.max_iters.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05))
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=2e-3,
    pct_start=0.2,
    total_steps=2400,
    by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2400, val_interval=400)
val_cfg = dict()
test_cfg = dict()

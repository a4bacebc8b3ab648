# A tenth of the training of autonl-s_remapped_1xb64-1e_cifar100-64px.py, from its
# result: the activation stays, to compare with
# autonl-s-hswish_finetuned_1xb64-47i_cifar100-64px.py. The learning rate is a tenth too
# and was not tuned.
_base_ = 'autonl-s_remapped_1xb64-1e_cifar100-64px.py'

load_from = 'work_dirs/autonl-s_remapped_1xb64-1e_cifar100-64px/epoch_1.pth'
model = dict(backbone=dict(init_cfg=None))
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=47, val_interval=47)
param_scheduler = dict(
    _delete_=True,
    type='OneCycleLR',
    eta_max=3e-4,
    pct_start=0.2,
    total_steps=47,
    by_epoch=False)
custom_hooks = [
    dict(type='autonl_mm.ChannelsLastHook'),
    # BN's momentum is 0.01: most of its statistics would be those of the start.
    dict(
        type='PreciseBNHook',
        num_samples=2048,
        interval=47,
        priority='ABOVE_NORMAL')
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=47))
log_processor = dict(by_epoch=False)

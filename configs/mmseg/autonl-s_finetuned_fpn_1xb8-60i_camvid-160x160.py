# A tenth of the training of autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py, from its
# result: the activation stays, to compare with
# autonl-s-hswish_finetuned_fpn_1xb8-60i_camvid-160x160.py. The learning rate is a tenth
# too and was not tuned.
_base_ = 'autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py'

load_from = 'work_dirs/autonl-s_remapped_fpn_1xb8-600i_camvid-160x160/iter_600.pth'
model = dict(backbone=dict(init_cfg=None))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = dict(eta_max=2e-4, total_steps=60)
# PreciseBNHook loads by the sampler of the training, which must end.
train_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(max_iters=60, val_interval=60)
default_hooks = dict(checkpoint=dict(interval=60))
custom_hooks = [
    dict(type='autonl_mm.ChannelsLastHook'),
    dict(type='mmpretrain.PreciseBNHook', num_samples=512, interval=60),
]

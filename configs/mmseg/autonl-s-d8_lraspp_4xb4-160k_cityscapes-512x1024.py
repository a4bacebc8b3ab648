_base_ = [
    '../_base_/models/lraspp_autonl-s.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/poly_sgd_80k.py',
    '../_base_/mmseg_iter_runtime.py',
]

param_scheduler = dict(end=160000)
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
train_dataloader = dict(batch_size=4, num_workers=4)

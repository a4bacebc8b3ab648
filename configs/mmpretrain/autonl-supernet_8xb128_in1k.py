# The paper's search on ImageNet: 8 epochs on one machine of 8 GPUs, the first
# five eighths of them a warm-up in which networks are sampled at a falling rate.
# For the paper's objective, cost_weight * log(MACs), set target to None.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/search.py',
    '../_base_/mmpretrain_runtime.py',
]

task_model = _base_.model
task_model.backbone = dict(type='autonl_mm.AutoNLSuperNet')
model = dict(
    _delete_=True,
    type='autonl_mm.CostAwareModel',
    model=task_model,
    cost_weight=0.05,
    target=267e6)
# lr 0.016 per 256 images
optim_wrapper = dict(
    optimizer=dict(
        type='timm.optim.RMSpropTF',
        lr=0.064,
        alpha=0.9,
        momentum=0.9,
        eps=1e-3,
        weight_decay=1e-5),
    # The thresholds' learning rate is chosen for 3,750 steps after the warm-up.
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys=dict(threshold=dict(lr_mult=0.1, decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[3, 5], gamma=0.97),
]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
# 6,255 of 10,008 steps, as in Single-Path NAS
custom_hooks = [
    dict(
        type='autonl_mm.GateSearchHook',
        warmup=0.625,
        freeze_at=0.9,
        warmup_sample_rate=0.5,
        sample_rate=0.25),
    dict(type='mmpretrain.PreciseBNHook', num_samples=8192),
]
# Workers end with the epoch, otherwise a resumed search would see other crops.
train_dataloader = dict(persistent_workers=False)
visualizer = dict(vis_backends=[
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
])
# tools/export_arch.py --config writes a variant of this config
retrain_base = '{{ fileDirname }}/autonl-s_32xb128_in1k.py'

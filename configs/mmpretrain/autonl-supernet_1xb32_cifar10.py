# Search on CIFAR-10 at 32x32 for a network of 6.5 M MACs, for two CPU cores.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/models/autonl-supernet_small.py',
    '../_base_/datasets/cifar10_bs128_32px.py',
    '../_base_/schedules/search_adamw_5e.py',
    '../_base_/search.py',
    '../_base_/mmpretrain_runtime.py',
]

task_model = _base_.model
task_model.backbone = dict(
    _base_.supernet, input_shape=(32, 32), num_classes=10)
task_model.head.in_channels = 320
# In three epochs it does not overfit.
task_model.neck.dropout = 0.
# At 32x32 the first searched stage keeps the stem's 16x16.
task_model.backbone.space.stages[1].stride = 1
model = dict(
    _delete_=True,
    type='autonl_mm.CostAwareModel',
    model=task_model,
    cost_weight=0.05,
    target=6.5e6)
# Small batches, because in such a short run the number of steps matters most.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(
    optimizer=dict(lr=6e-3),
    # The thresholds keep the learning rate of the schedule.
    paramwise_cfg=dict(custom_keys=dict(threshold=dict(lr_mult=7.5))))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 3
train_cfg = dict(max_epochs=3)
custom_hooks = [
    *_base_.custom_hooks,
    # On a CPU, depthwise convolutions are about twice as fast in this memory layout.
    dict(type='autonl_mm.ChannelsLastHook'),
]
visualizer = dict(vis_backends=[
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
])
randomness = dict(seed=0)
# tools/export_arch.py --config writes a variant of this config
retrain_base = '{{ fileDirname }}/autonl-searched_1xb32_cifar10.py'

# Retrains a network of the small search space in a RetinaNet. tools/choose_arch.py
# writes variants of this config with the networks that it chose.
_base_ = [
    '../_base_/models/retinanet_small.py',
    '../_base_/models/autonl-searched_small.py',
    '../_base_/datasets/demo_det_bs8.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmdet_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(backbone=dict(_base_.searched, out_indices=(2, 3, 4)))
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10))
param_scheduler = dict(eta_max=2e-3)
randomness = dict(seed=0)

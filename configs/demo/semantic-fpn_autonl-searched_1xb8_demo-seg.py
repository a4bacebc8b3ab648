# Retrains a network of the small search space in a Semantic FPN.
# tools/choose_arch.py writes variants of this config with the networks that it chose.
_base_ = [
    '../_base_/models/semantic_fpn_small.py',
    '../_base_/datasets/demo_seg_bs8.py',
    '../_base_/schedules/adamw_onecycle_5e.py',
    '../_base_/mmseg_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
model = dict(
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch=[
            'r1_k3_s11_e1_i16_o16',
            'r1_k3_s22_e3_i16_o24_nonlocal0.25-2',
            'r1_k3_s22_e3_i24_o40_se0.25_nonlocal0.25-2',
            'r1_k3_s11_e3_i40_o40_se0.25',
            'r1_k5_s22_e3_i40_o80_se0.25_nonlocal0.25-1',
            'head320',
        ],
        out_indices=(2, 3, 4),
        norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3)))
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10))
param_scheduler = dict(eta_max=2e-3)
randomness = dict(seed=0)

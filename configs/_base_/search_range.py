# What a search without a target adds to training: whole networks over the range of
# costs, by the sandwich rule, and no choice. tools/choose_arch.py chooses afterwards,
# for any target.
custom_hooks = [
    dict(
        type='autonl_mm.SearchHook',
        warmup=1.,
        freeze_at=1.,
        networks=4,
        sandwich=True,
        soft_targets=True,
        recalibrate=1024),
    dict(type='mmpretrain.PreciseBNHook', num_samples=8192),
]

# What a search adds to training: schedule and records of the gates, and BN
# recalibrated before each evaluation, since its statistics lag behind them.
custom_hooks = [
    dict(
        type='autonl_mm.SearchHook',
        settle=0.7,
        drop_rate=0.75,
        explore_rate=0.75),
    dict(type='mmpretrain.PreciseBNHook', num_samples=8192),
]

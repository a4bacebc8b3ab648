# What a search adds to training: schedule and records of the gates, and BN
# recalibrated before each evaluation, since its statistics lag behind them.
# The network is chosen at the end of the warm-up. Thresholds that move before
# that would train the supernet towards one network, and the others would look
# bad when they are tried.
custom_hooks = [
    dict(
        type='autonl_mm.SearchHook',
        warmup=0.75,
        freeze_at=0.75,
        warmup_sample_rate=0.95,
        sample_rate=0.95),
    dict(type='mmpretrain.PreciseBNHook', num_samples=8192),
]

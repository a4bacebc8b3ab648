# Hooks of a search: the schedule and the records of the gates, and recalibration of BN
# before each evaluation, because its statistics lag behind the gates. The subnet is
# chosen at the end of the warm-up. If thresholds moved before that, the supernet would
# be trained towards one subnet, and other candidates would get worse losses.
custom_hooks = [
    dict(
        type='autonl_mm.GateSearchHook',
        warmup=0.75,
        freeze_at=0.75,
        warmup_sample_rate=0.95,
        sample_rate=0.95),
    dict(type='mmpretrain.PreciseBNHook', num_samples=8192),
]

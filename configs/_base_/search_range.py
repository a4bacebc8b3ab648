# What a search without a target changes in its hook: it trains whole networks over the
# range of costs, by the sandwich rule, and chooses none. tools/choose_arch.py chooses
# afterwards, for any target.
for_all_targets = dict(
    warmup=1.,
    freeze_at=1.,
    networks=4,
    soft_targets=True)

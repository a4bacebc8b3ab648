# Settings of SearchHook without a target: it trains subnets over the range of costs, by
# the sandwich rule, and chooses none. tools/choose_arch.py chooses afterwards, for any
# target.
for_all_targets = dict(
    warmup=1.,
    freeze_at=1.,
    subnets=4,
    soft_targets=True)

# A supernet for all targets, on CIFAR-10 at 32x32: whole networks of 2.4 to 14.3 M MACs
# are trained, and tools/choose_arch.py chooses afterwards, on images that the weights
# were not trained on.
_base_ = 'autonl-supernet-holdout_1xb32_cifar10.py'

model = dict(target=None)
search_hook, bn_hook, memory_hook = _base_.custom_hooks
custom_hooks = [
    dict(type='autonl_mm.SandwichSearchHook', held_out=search_hook.held_out),
    bn_hook,
    memory_hook,
]

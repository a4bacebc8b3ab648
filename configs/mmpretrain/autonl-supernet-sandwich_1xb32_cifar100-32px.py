# Search by the sandwich rule on CIFAR-100 at 32x32, for a network of 6.5 M MACs, in the
# time of autonl-supernet-gates_1xb32_cifar100-32px.py: a step takes half as long again.
# For all targets in the time of three such searches:
#   --cfg-options model.target=None train_cfg.max_epochs=6 param_scheduler.1.end=6
_base_ = 'autonl-supernet-gates_1xb32_cifar100-32px.py'

param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 2
train_cfg = dict(max_epochs=2)
gate_hook, memory_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        type='autonl_mm.SandwichSearchHook',
        freeze_at=1.,
        held_out=gate_hook.held_out),
    memory_hook,
]

# Search by the paper's rule on CIFAR-100 at 32x32, for a network of 6.5 M MACs: in the
# second half the thresholds are trained by gradient to the target. At the end,
# candidates are tried on images that the weights were not trained on.
_base_ = [
    'autonl-supernet_1xb32_cifar10.py',
    '../_base_/datasets/cifar100_split.py',
]

data_preprocessor = dict(num_classes=100)
train_dataloader = dict(
    dataset=dict(
        _base_.cifar100,
        data_prefix='train',
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _base_.cifar100, data_prefix='final', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
# The final images are no business of the search: it never evaluates.
train_cfg = dict(val_begin=1000)

model = dict(
    model=dict(
        backbone=dict(num_classes=100), head=dict(num_classes=100)),
    # Ten times the usual weight: the gradient of the cost decides over the noise in the
    # gradients of the task.
    cost_weight=0.5)
# The sum of the thresholds' learning rates after the warm-up is 5, and the gates'
# values start at 1: thresholds can pass the values, and end in small steps.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(threshold=dict(lr_mult=1.7))))
_, _, memory_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        type='autonl_mm.GateSearchHook',
        warmup=0.5,
        freeze_at=1.,
        held_out=dict(
            type='CustomDataset',
            data_root=_base_.cifar100.data_root,
            data_prefix='select',
            pipeline=_base_.test_pipeline)),
    memory_hook,
]
# tools/export_arch.py --config writes a variant of this config
retrain_base = '{{ fileDirname }}/autonl-searched_1xb32_cifar100-32px.py'

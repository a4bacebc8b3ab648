# Trains a network of the small search space on CIFAR-100 at 32x32, for three epochs
# from scratch. tools/export_arch.py --config writes a variant of this config with
# another network.
_base_ = [
    'autonl-searched_1xb32_cifar10.py',
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
model = dict(head=dict(num_classes=100))

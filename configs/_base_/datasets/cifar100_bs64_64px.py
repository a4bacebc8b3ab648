# CIFAR-100, enlarged from 32x32 to 64x64. Of each class, sorted by name, 300 images to
# train on, 100 to select by, and 100 for the final figure, which is what is evaluated:
#   tools/dataset_converters/split_folder.py data/cifar100/train data/cifar100-split \
#       train=300 select=100 final=100
_base_ = 'cifar10_bs128.py'

data_root = 'data/cifar100-split'
data_preprocessor = dict(num_classes=100)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='final',
        pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

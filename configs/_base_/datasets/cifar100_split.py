# CIFAR-100 in three parts. Of each class, sorted by name, 300 images to train on, 100
# to select by, and 100 for the final figure:
#   tools/dataset_converters/split_folder.py data/cifar100/train data/cifar100-split \
#       train=300 select=100 final=100
# A config that inherits from one of another folder takes these parts in its place.
cifar100 = dict(
    _delete_=True, type='CustomDataset', data_root='data/cifar100-split')

_base_ = [
    '../_base_/models/mobilenet_v2_cls.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/imagenet_rmsprop_350e.py',
    '../_base_/mmpretrain_runtime.py',
]

# The paper's network and recipe, with the paper's LightNL. Other configs have the
# bounded LightNL: see docs/light_nl.md.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/imagenet_rmsprop_350e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(backbone=dict(normalize='size'))

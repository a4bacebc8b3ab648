# The paper's network and recipe. Its LightNL is the paper's too, which other configs
# replace by the bounded one: see docs/light_nl.md.
_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/imagenet_bs128.py',
    '../_base_/schedules/imagenet_rmsprop_350e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(backbone=dict(normalize='size'))

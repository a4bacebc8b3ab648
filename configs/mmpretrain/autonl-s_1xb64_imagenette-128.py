# AutoNL-S from scratch on Imagenette at 128x128, for two CPU cores. The recipe was not
# chosen on the validation images: autonl-s_1xb64_imagenette-128-holdout.py is for that.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/imagenette160_bs64_128px.py',
    '../_base_/schedules/sgd_onecycle_15e.py',
    '../_base_/mmpretrain_runtime.py',
]

# On a CPU, depthwise convolutions are about twice as fast in this memory layout.
custom_hooks = [dict(type='autonl_mm.ChannelsLastHook')]
randomness = dict(seed=0)

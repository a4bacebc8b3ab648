# AutoNL-S from scratch on Imagenette at 128x128, for two CPU cores. The training images
# grow from 64 to 96 to 128 pixels, which takes half of the time. The recipe was not
# chosen on the validation images: autonl-s_1xb64_imagenette-128-holdout.py is for that.
_base_ = [
    '../_base_/models/autonl_cls_10cls.py',
    '../_base_/datasets/imagenette160_bs64_128px.py',
    '../_base_/schedules/sgd_onecycle_10e.py',
    '../_base_/mmpretrain_runtime.py',
]

custom_hooks = [
    # On a CPU, depthwise convolutions are about twice as fast in this memory layout.
    dict(type='autonl_mm.ChannelsLastHook'),
    dict(
        type='SwitchRecipeHook',
        schedule=[
            dict(action_epoch=1, train_pipeline=_base_.train_pipeline_64),
            dict(action_epoch=6, train_pipeline=_base_.train_pipeline_96),
            dict(action_epoch=10, train_pipeline=_base_.train_pipeline),
        ]),
]
randomness = dict(seed=0)

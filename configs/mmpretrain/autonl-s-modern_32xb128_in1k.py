_base_ = [
    '../_base_/models/autonl_cls.py',
    '../_base_/datasets/imagenet_bs128_modern.py',
    '../_base_/schedules/imagenet_modern_450e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='multi_label',
            use_sigmoid=True)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.1),
        dict(type='CutMix', alpha=1.0),
    ]))

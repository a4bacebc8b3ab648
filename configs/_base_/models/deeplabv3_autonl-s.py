# mmseg's DeepLabV3 (arXiv 1706.05587) on AutoNL-S at output stride 16.
_base_ = 'segmentor_autonl-s.py'
model = dict(
    backbone=dict(output_stride=16),
    decode_head=dict(
        type='ASPPHead',
        in_channels=320,
        in_index=3,
        channels=512,
        dilations=(1, 6, 12, 18)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=96,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=dict(type='SyncBN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)))

# Shared by all segmentors on AutoNL-S.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 1024)),
    backbone=dict(
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(2, 3, 5, 7),
        # a few crops per GPU are too few for batch statistics
        norm_cfg=dict(type='SyncBN', momentum=0.01, eps=1e-3)),
    decode_head=dict(
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=dict(type='SyncBN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

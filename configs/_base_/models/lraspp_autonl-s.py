# mmseg's Lite R-ASPP (arXiv 1905.02244) on AutoNL-S. Its head averages over
# windows of 49x49: at output stride 8 crops are at least 392 pixels wide and high.
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
        out_indices=(1, 2, 7),
        output_stride=8,
        # a few crops a GPU are too few for statistics of their own
        norm_cfg=dict(type='SyncBN', momentum=0.01, eps=1e-3)),
    decode_head=dict(
        type='LRASPPHead',
        in_channels=(16, 24, 320),
        in_index=(0, 1, 2),
        channels=128,
        input_transform='multiple_select',
        act_cfg=dict(type='ReLU'),
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=dict(type='SyncBN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])
default_hooks = dict(checkpoint=dict(type='autonl_mm.SafeCheckpointHook'))

model = dict(
    # The stock config feeds BGR, because its backbone was pretrained on BGR.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(3, 5, 7),
        norm_cfg=dict(type='SyncBN', momentum=0.01, eps=1e-3)),
    neck=dict(in_channels=[40, 96, 320]))

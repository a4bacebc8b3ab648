_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])
default_hooks = dict(checkpoint=dict(type='autonl_mm.SafeCheckpointHook'))

model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(2, 3, 5, 7),
        # two images per GPU are too few for batch statistics
        norm_cfg=dict(type='SyncBN', momentum=0.01, eps=1e-3)),
    neck=dict(in_channels=[24, 40, 96, 320]))

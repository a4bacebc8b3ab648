_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports=[
    'autonl_mm.safe_checkpoints', 'autonl_mm.models.dense_heads.ssdlite_head'
])
default_hooks = dict(checkpoint=dict(type='autonl_mm.SafeCheckpointHook'))

# The feature maps at strides 16 and 32 have 96 and 1280 channels, as in MobileNetV2.
# 24 images per GPU are enough for batch statistics. The momentum of BN is the stock
# config's, for training from scratch.
model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.AutoNL',
        arch='s',
        out_indices=(5, 8),
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3)),
    # The original SSDHead cannot predict in mmdet 3.3.0.
    bbox_head=dict(type='autonl_mm.SSDLiteHead'))

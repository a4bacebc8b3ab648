# The stock config, with a head that can predict in mmdet 3.3.0.
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports=[
    'autonl_mm.safe_checkpoints', 'autonl_mm.models.dense_heads.ssdlite_head'
])
default_hooks = dict(checkpoint=dict(type='autonl_mm.SafeCheckpointHook'))

model = dict(bbox_head=dict(type='autonl_mm.SSDLiteHead'))

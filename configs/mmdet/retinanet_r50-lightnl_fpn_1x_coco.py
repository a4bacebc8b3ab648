# LightNL in the ten blocks of a pretrained ResNet-50's second and third stage.
# A new block is the identity, so training starts from the pretrained network.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])
default_hooks = dict(checkpoint=dict(type='autonl_mm.SafeCheckpointHook'))

model = dict(
    backbone=dict(
        # The stock config freezes BN statistics. New norms have none yet.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        plugins=[
            dict(
                cfg=dict(
                    type='autonl_mm.LightNL',
                    channel_ratio=0.25,
                    stride=2,
                    norm_cfg=dict(type='SyncBN')),
                stages=(False, True, True, False),
                position='after_conv3')
        ]))

# timm's pretrained MnasNet, which timm downloads, with LightNL after the last block of
# each stage. A new block is the identity, so training starts from the pretrained network.
_base_ = 'retinanet_autonl-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=dict(
            type='mmpretrain.TIMMBackbone',
            model_name='mnasnet_100',
            features_only=True,
            out_indices=(1, 2, 3, 4),
            pretrained=True),
        plugins=[
            dict(
                cfg=dict(
                    type='autonl_mm.LightNL', channel_ratio=0.25, stride=stride,
                    norm_cfg=dict(type='SyncBN')),
                target=target)
            for stride, target in ((2, r'blocks\.[12]\.2'), (1, r'blocks\.[356]\.\d'))
        ]),
    neck=dict(in_channels=[24, 40, 96, 320]))

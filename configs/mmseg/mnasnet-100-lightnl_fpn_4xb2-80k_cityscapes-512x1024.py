# timm's pretrained MnasNet, which timm downloads, with LightNL after each stage from
# stride 4 on. A new LightNL is the identity: training starts from the trained network.
_base_ = 'autonl-s_fpn_4xb2-80k_cityscapes-512x1024.py'

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
                    type='autonl_mm.LightNL', stride=2, norm_cfg=dict(type='SyncBN')),
                target=r'timm_model\.blocks\.[12]'),
            dict(
                cfg=dict(type='autonl_mm.LightNL', norm_cfg=dict(type='SyncBN')),
                target=r'timm_model\.blocks\.[3456]'),
        ]))

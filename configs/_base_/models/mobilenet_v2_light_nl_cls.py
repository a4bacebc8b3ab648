# MobileNetV2 with LightNL after the second 1x1 convolution of every block,
# with stride 2 where the feature map is larger than 14x14 (AutoNL, section 3.1).
_base_ = 'mobilenet_v2_cls.py'

light_nl = dict(
    type='autonl_mm.LightNL',
    channel_ratio=0.25,
    normalize='size',
    norm_cfg=_base_.norm_cfg)
model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=_base_.model.backbone,
        plugins=[
            dict(cfg=dict(light_nl, stride=2), target=r'layer[123]\.\d+\.conv'),
            dict(cfg=dict(light_nl, stride=1), target=r'layer[4567]\.\d+\.conv'),
        ]))

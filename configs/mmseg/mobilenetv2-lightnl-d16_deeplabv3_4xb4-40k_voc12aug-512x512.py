# The paper's transfer experiment: LightNL after the second 1x1 convolution of
# every block, after its BN. Its stride is 2 where the feature map of a 224x224 image
# is larger than 14x14, which is in the first three stages.
_base_ = 'mobilenetv2-d16_deeplabv3_4xb4-40k_voc12aug-512x512.py'

light_nl = dict(
    type='autonl_mm.LightNL',
    channel_ratio=0.25,
    normalize='size',
    norm_cfg=dict(type='SyncBN'))
model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=_base_.model.backbone,
        plugins=[
            # layer1 to layer3 give feature maps of 112, 56 and 28 pixels. The first
            # block does not expand: its second convolution is the only 1x1.
            dict(cfg=dict(stride=2, **light_nl), target=r'layer1\.0\.conv\.1'),
            dict(
                cfg=dict(stride=2, **light_nl),
                target=r'layer[23]\.\d+\.conv\.2'),
            dict(
                cfg=dict(stride=1, **light_nl),
                target=r'layer[45]\.\d+\.conv\.2'),
            # where the last stride is replaced by dilation
            dict(
                cfg=dict(stride=1, dilation=2, **light_nl),
                target=r'layer[67]\.\d+\.conv\.2'),
        ]))

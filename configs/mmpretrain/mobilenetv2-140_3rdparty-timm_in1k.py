_base_ = 'mnasnet-100_3rdparty-timm_in1k.py'

model = dict(
    backbone=dict(arch='mobilenetv2_140'), head=dict(in_channels=1792))

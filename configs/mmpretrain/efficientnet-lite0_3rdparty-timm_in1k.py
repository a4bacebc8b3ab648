_base_ = 'mnasnet-100_3rdparty-timm_in1k.py'

model = dict(backbone=dict(arch='efficientnet_lite0'))

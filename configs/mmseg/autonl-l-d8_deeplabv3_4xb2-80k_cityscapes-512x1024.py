_base_ = 'autonl-s-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py'

model = dict(backbone=dict(arch='l'))

_base_ = 'autonl-s-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'

model = dict(backbone=dict(arch='l'))

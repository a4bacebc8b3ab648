_base_ = 'autonl-s_fpn_4xb2-80k_cityscapes-512x1024.py'

model = dict(backbone=dict(arch='l'))

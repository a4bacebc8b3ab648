_base_ = 'autonl-s-d8_lraspp_4xb4-160k_cityscapes-512x1024.py'

model = dict(backbone=dict(arch='l'))

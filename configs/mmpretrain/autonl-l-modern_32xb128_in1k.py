_base_ = 'autonl-s-modern_32xb128_in1k.py'

model = dict(backbone=dict(arch='l'))

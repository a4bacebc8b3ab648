_base_ = 'autonl-s_2xb128_cifar10.py'

model = dict(backbone=dict(act_cfg=dict(type='HSwish')))

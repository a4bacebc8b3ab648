_base_ = 'autonl-s_3rdparty-torch_in1k.py'

model = dict(backbone=dict(arch='l'))

_base_ = 'autonl-s_3rdparty-tf_in1k.py'

model = dict(backbone=dict(arch='l'))

_base_ = 'autonl-l_32xb128_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='HSwish'), normalize='rms'))

# For hardware on which swish's sigmoid is expensive or quantises badly.
_base_ = 'autonl-s_32xb128_in1k.py'

model = dict(backbone=dict(act_cfg=dict(type='HSwish'), normalize='rms'))

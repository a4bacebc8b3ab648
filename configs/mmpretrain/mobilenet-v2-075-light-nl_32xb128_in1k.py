_base_ = 'mobilenet-v2-light-nl_32xb128_in1k.py'

model = dict(backbone=dict(backbone=dict(widen_factor=0.75)))

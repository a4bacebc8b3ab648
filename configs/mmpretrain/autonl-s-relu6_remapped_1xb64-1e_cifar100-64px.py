# ReLU6, the donor's activation, instead of swish.
_base_ = 'autonl-s_remapped_1xb64-1e_cifar100-64px.py'

model = dict(backbone=dict(act_cfg=dict(type='ReLU6')))

# The activation of the trained network is changed.
_base_ = 'autonl-s_finetuned_1xb64-47i_cifar100-64px.py'

model = dict(backbone=dict(act_cfg=dict(type='HSwish')))

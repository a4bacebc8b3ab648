# The activation of the trained network is changed.
_base_ = 'autonl-s_finetuned_fpn_1xb8-60i_camvid-160x160.py'

model = dict(backbone=dict(act_cfg=dict(type='HSwish')))

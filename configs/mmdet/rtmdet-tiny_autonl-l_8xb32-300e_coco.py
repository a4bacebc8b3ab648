_base_ = 'rtmdet-tiny_autonl-s_8xb32-300e_coco.py'

model = dict(backbone=dict(arch='l'))

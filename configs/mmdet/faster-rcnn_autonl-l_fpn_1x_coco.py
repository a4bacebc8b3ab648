_base_ = 'faster-rcnn_autonl-s_fpn_1x_coco.py'

model = dict(backbone=dict(arch='l'))

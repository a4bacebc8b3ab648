_base_ = 'autonl-s-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    backbone=dict(output_stride=8),
    decode_head=dict(dilations=(1, 12, 24, 36)))

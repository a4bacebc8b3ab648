# mmseg's Semantic FPN (arXiv 1901.02446) on AutoNL-S.
_base_ = 'segmentor_autonl-s.py'
model = dict(
    neck=dict(
        type='FPN',
        in_channels=[24, 40, 96, 320],
        out_channels=256,
        num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128))

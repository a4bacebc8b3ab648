# mmseg's DeepLabV3+ (arXiv 1802.02611) on AutoNL-S at output stride 16.
_base_ = 'deeplabv3_autonl-s.py'
model = dict(
    decode_head=dict(
        type='DepthwiseSeparableASPPHead', c1_in_channels=24, c1_channels=48))

# mmseg's Lite R-ASPP (arXiv 1905.02244) on AutoNL-S. Its head averages over
# windows of 49x49: at output stride 8, crops must be at least 392 pixels wide and high.
_base_ = 'segmentor_autonl-s.py'
model = dict(
    backbone=dict(out_indices=(1, 2, 7), output_stride=8),
    decode_head=dict(
        type='LRASPPHead',
        in_channels=(16, 24, 320),
        in_index=(0, 1, 2),
        channels=128,
        input_transform='multiple_select',
        act_cfg=dict(type='ReLU')))

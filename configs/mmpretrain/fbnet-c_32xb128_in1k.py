_base_ = 'autonl-s_32xb128_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='fbnetc_100',
        bn_momentum=0.01,
        bn_eps=1e-3),
    head=dict(in_channels=1984))

# The donor of autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py itself.
_base_ = 'autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py'

model = dict(
    backbone=dict(
        arch=[
            'r1_k3_s11_e1_i32_o16', 'r2_k3_s22_e6_i16_o24', 'r2_k5_s22_e6_i24_o40',
            'r3_k3_s22_e6_i40_o80', 'r3_k5_s11_e6_i80_o112',
            'r4_k5_s22_e6_i112_o192', 'r1_k3_s11_e6_i192_o320'
        ],
        conv_cfg=dict(type='Conv2dAdaptivePadding'),
        act_cfg=dict(type='ReLU6'),
        norm_cfg=dict(eps=1e-3)),
    neck=dict(in_channels=[24, 40, 112, 320]))

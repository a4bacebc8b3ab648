# The detector of retinanet_autonl-s_1xb8_demo-det.py without LightNL: the five stages
# that it uses, line by line.
_base_ = 'retinanet_autonl-s_1xb8_demo-det.py'

model = dict(
    backbone=dict(arch=[
        'r1_k3_s11_e1_i32_o16',
        'r1_k3_s22_e3_i16_o24',
        'r1_k3_s11_e3_i24_o24',
        'r1_k5_s22_e3_i24_o40',
        'r2_k3_s11_e3_i40_o40',
        'r1_k5_s22_e6_i40_o80_se0.25',
        'r2_k3_s11_e3_i80_o80_se0.5',
        'r1_k5_s11_e6_i80_o96_se0.25',
        'r3_k3_s11_e3_i96_o96_se0.5',
    ]))

# A network of the small search space, to be replaced by one that was searched. A config
# takes ``searched`` as its model's backbone.
searched = dict(
    type='autonl_mm.AutoNL',
    arch=[
        'r1_k3_s11_e1_i16_o16',
        'r1_k3_s22_e3_i16_o24_nonlocal0.25-2',
        'r1_k3_s22_e3_i24_o40_se0.25_nonlocal0.25-2',
        'r1_k3_s11_e3_i40_o40_se0.25',
        'r1_k5_s22_e3_i40_o80_se0.25_nonlocal0.25-1',
        'head320',
        'scale-rms',
    ],
    norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3))

# AutoNL-S without its LightNLs, and what can stand in their seven places, after the
# project convolutions: steps for tools/benchmarks/compare_steps.py. A config takes
# ``steps_backbone`` as its model's backbone.
norm_cfg = dict(type='BN', momentum=0.1, eps=1e-3)
# Names of the places. Only the second block of stage 3 has stride 2.
place = r'layers\.(2\.0|3\.0|4\.0|5\.0|6\.0|7\.0)\.project'
strided_place = r'layers\.3\.1\.project'
paper = dict(
    type='autonl_mm.LightNL',
    channel_ratio=0.25,
    normalize='size',
    norm_cfg=norm_cfg)
rms = dict(paper, normalize='rms')
steps = dict(
    none=[],
    paper=[
        dict(cfg=paper, target=place),
        dict(cfg=dict(paper, stride=2), target=strided_place),
    ],
    bounded=[
        dict(cfg=rms, target=place),
        dict(cfg=dict(rms, stride=2), target=strided_place),
    ],
    squeeze_excite=[
        dict(
            cfg=dict(type='autonl_mm.SqueezeExcitePlugin'),
            target=f'{place}|{strided_place}')
    ],
    # mmcv's conventional block from stride 8 on: at stride 4 it would add more than
    # half of the network's MACs.
    conventional=[
        dict(
            cfg=dict(
                type='NonLocal2d',
                reduction=1,
                mode='dot_product',
                norm_cfg=norm_cfg),
            target=r'layers\.(3\.[01]|[4567]\.0)\.project')
    ])
steps_backbone = dict(
    _delete_=True,
    type='autonl_mm.PluginBackbone',
    backbone=dict(
        type='autonl_mm.AutoNL',
        out_indices=(-1, ),
        norm_cfg=norm_cfg,
        arch=[
            'r1_k3_s11_e1_i32_o16',
            'r1_k3_s22_e3_i16_o24',
            'r1_k3_s11_e3_i24_o24',
            'r1_k5_s22_e3_i24_o40',
            'r2_k3_s11_e3_i40_o40',
            'r1_k5_s22_e6_i40_o80_se0.25',
            'r2_k3_s11_e3_i80_o80_se0.5',
            'r1_k5_s11_e6_i80_o96_se0.25',
            'r3_k3_s11_e3_i96_o96_se0.5',
            'r1_k5_s22_e6_i96_o192_se0.25',
            'r3_k5_s11_e3_i192_o192_se0.5',
            'r1_k5_s11_e6_i192_o320_se0.5',
        ]),
    plugins=steps['bounded'])

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
    # As many hidden units as a quarter of the channels.
    squeeze_excite=[
        dict(
            cfg=dict(type='autonl_mm.SqueezeExcitePlugin', hidden_channels=n),
            target=target) for n, target in (
                (6, r'layers\.2\.0\.project'),
                (10, r'layers\.3\.[01]\.project'),
                (20, r'layers\.4\.0\.project'),
                (24, r'layers\.5\.0\.project'),
                (48, r'layers\.6\.0\.project'),
                (80, r'layers\.7\.0\.project'),
            )
    ],
    # As many as it takes for the MACs of the paper's LightNL at 128x128, place by
    # place. Those of squeeze-excite do not grow with the size of the feature map, so
    # that it has many more parameters.
    squeeze_excite_equal_macs=[
        dict(
            cfg=dict(type='autonl_mm.SqueezeExcitePlugin', hidden_channels=n),
            target=target) for n, target in (
                (10240, r'layers\.2\.0\.project'),
                (3584, r'layers\.3\.0\.project'),
                (2624, r'layers\.3\.1\.project'),
                (1536, r'layers\.4\.0\.project'),
                (1792, r'layers\.5\.0\.project'),
                (224, r'layers\.[67]\.0\.project'),
            )
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

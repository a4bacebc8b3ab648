# The steps from a conventional non-local block to LightNL (AutoNL, section
# 3.1), each after the project convolution of all 8 blocks of one network, on
# CIFAR-10 at 32x32 (feature maps of 16x16, 8x8 and 4x4): 5 epochs of 20,000 images.
# tools/benchmarks/compare_steps.py trains all steps, and beside them the bounded
# LightNL. Used alone, this config trains spatial_compaction.
_base_ = 'autonl-searched_1xb32_cifar10.py'

norm_cfg = dict(type='BN', momentum=0.1, eps=1e-3)
light_nl = dict(
    type='autonl_mm.LightNL',
    channel_ratio=0.25,
    normalize='size',
    norm_cfg=norm_cfg)
target = r'layers\.[1234]\.\d+\.project'
steps = dict(
    none=[],
    conventional=[
        dict(
            cfg=dict(
                type='NonLocal2d',
                reduction=1,
                mode='dot_product',
                norm_cfg=norm_cfg),
            target=target)
    ],
    shared_features=[
        dict(
            cfg=dict(
                type='autonl_mm.SharedNL', normalize='size', norm_cfg=norm_cfg),
            target=target)
    ],
    depthwise_output=[
        dict(cfg=dict(light_nl, channel_ratio=1), target=target),
    ],
    channel_compaction=[dict(cfg=light_nl, target=target)],
    # stride 2 except on the smallest feature maps
    spatial_compaction=[
        dict(
            cfg=dict(light_nl, stride=2),
            target=r'layers\.[123]\.\d+\.project'),
        dict(cfg=light_nl, target=r'layers\.4\.\d+\.project'),
    ],
    bounded=[
        dict(
            cfg=dict(light_nl, stride=2, normalize='rms'),
            target=r'layers\.[123]\.\d+\.project'),
        dict(
            cfg=dict(light_nl, normalize='rms'),
            target=r'layers\.4\.\d+\.project'),
    ],
    # all channels, at stride 1
    bounded_depthwise_output=[
        dict(
            cfg=dict(light_nl, channel_ratio=1, normalize='rms'), target=target)
    ])
model = dict(
    backbone=dict(
        _delete_=True,
        type='autonl_mm.PluginBackbone',
        backbone=dict(
            type='autonl_mm.AutoNL',
            out_indices=(-1, ),
            norm_cfg=norm_cfg,
            arch=[
                'r1_k3_s11_e1_i16_o16',
                'r1_k3_s11_e3_i16_o24',
                'r1_k3_s11_e3_i24_o24',
                'r1_k3_s22_e3_i24_o40',
                'r1_k3_s11_e3_i40_o40',
                'r1_k3_s22_e3_i40_o80',
                'r2_k3_s11_e3_i80_o80',
                'head320',
            ]),
        plugins=steps['spatial_compaction']))
param_scheduler = dict(total_steps=5)
train_cfg = dict(max_epochs=5, val_interval=5)
train_dataloader = dict(dataset=dict(indices=20000))
del light_nl  # no setting of its own

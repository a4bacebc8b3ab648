# A search space of 9 blocks for small images, 8 of them searched: a stem, then stages
# of 16, 24, 40 and 80 channels at strides 2, 4, 8, 16.
supernet = dict(
    type='autonl_mm.AutoNLSuperNet',
    space=dict(
        stem_channels=16,
        head_channels=320,
        stages=[
            dict(
                channels=16,
                depth=1,
                stride=1,
                kernel_size=3,
                expand_ratio=1,
                se_ratio=0,
                nl_ratio=0),
            dict(channels=24, depth=2, stride=2),
            dict(channels=40, depth=3, stride=2),
            dict(channels=80, depth=3, stride=2),
        ]),
    norm_cfg=dict(type='BN', momentum=0.1, eps=1e-3))

# What can stand after the project convolution of each block of a network that has
# neither LightNL nor squeeze-excite: steps for tools/benchmarks/compare_steps.py. The
# protocol is in docs/light_nl.md.
norm_cfg = dict(type='BN', momentum=0.1, eps=1e-3)
block = r'layers\.\d+\.\d+'
cfgs = dict(
    # One more depthwise convolution: what is not non-local in LightNL
    conv=dict(type='autonl_mm.LightNLForm', form='conv'),
    conv_rms=dict(type='autonl_mm.LightNLForm', form='conv_rms'),
    mean=dict(type='autonl_mm.LightNLForm', form='mean'),
    paper=dict(type='autonl_mm.LightNL', normalize='size'),
    bounded=dict(type='autonl_mm.LightNL', normalize='rms'),
    centred=dict(type='autonl_mm.LightNLForm', form='centred'),
    correlation=dict(type='autonl_mm.LightNLForm', form='correlation'),
    relu=dict(type='autonl_mm.LightNLForm', form='relu'),
    groups=dict(type='autonl_mm.LightNLForm', form='groups'))
steps = dict(
    none=[],
    squeeze_excite=[
        dict(
            cfg=dict(type='autonl_mm.SqueezeExcitePlugin'),
            target=f'{block}\\.depthwise')
    ])
for name, cfg in cfgs.items():
    steps[name] = [
        dict(cfg=dict(cfg, norm_cfg=norm_cfg), target=f'{block}\\.project')
    ]
# A branch starts at zero and is trained only shortly. Its normalisation's weight gets a
# larger learning rate, in each form alike; squeeze-excite has no such weight.
paramwise_cfg = dict(
    custom_keys={'light_nl.norm.weight': dict(lr_mult=5., decay_mult=0.)})
del name, cfg, cfgs

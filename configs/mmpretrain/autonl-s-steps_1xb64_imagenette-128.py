# AutoNL-S with other blocks in place of its LightNLs, all trained as
# autonl-s_1xb64_imagenette-128.py. tools/benchmarks/compare_steps.py trains all of
# them. Used alone, this config trains the bounded LightNL.
_base_ = [
    'autonl-s_1xb64_imagenette-128.py',
    '../_base_/models/autonl-s_steps.py',
]

model = dict(backbone=_base_.steps_backbone)

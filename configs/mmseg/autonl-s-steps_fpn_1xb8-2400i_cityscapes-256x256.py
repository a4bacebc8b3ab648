# Semantic FPN on AutoNL-S with other blocks in place of its LightNLs.
# tools/benchmarks/compare_steps.py trains each. Used alone, this config trains the
# bounded LightNL.
_base_ = [
    'autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py',
    '../_base_/models/autonl-s_steps.py',
]

backbone = _base_.steps_backbone
backbone.backbone.out_indices = (2, 3, 5, 7)
model = dict(backbone=backbone)

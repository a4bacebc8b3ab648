# Semantic FPN on AutoNL-S with other blocks in place of its LightNLs.
# tools/benchmarks/compare_steps.py --pretrained trains each from its own checkpoint of
# autonl-s-steps_1xb64_imagenette-128.py. Used alone, this config trains the bounded
# LightNL from scratch.
_base_ = [
    'autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py',
    '../_base_/models/autonl-s_steps.py',
]

backbone = _base_.steps_backbone
backbone.backbone.out_indices = (2, 3, 5, 7)
model = dict(backbone=backbone)

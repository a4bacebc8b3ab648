# Search for the backbone of a Semantic FPN on scenes of handwritten digits.
_base_ = [
    '../_base_/models/semantic_fpn_small.py',
    '../_base_/models/autonl-supernet_small.py',
    '../_base_/datasets/demo_seg_bs8.py',
    '../_base_/schedules/search_adamw_5e.py',
    '../_base_/search.py',
    '../_base_/mmseg_runtime.py',
]

task_model = _base_.model
task_model.backbone = dict(
    _base_.supernet, input_shape=(160, 160), out_indices=(2, 3, 4))
model = dict(
    _delete_=True,
    type='autonl_mm.CostAwareModel',
    model=task_model,
    cost_weight=0.05,
    target=30e6)
# The demo is short: it evaluates few candidates on few images.
search_hook, bn_hook = _base_.custom_hooks
custom_hooks = [dict(search_hook, candidates=64, num_samples=64), bn_hook]
visualizer = dict(vis_backends=[
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
])
randomness = dict(seed=0)
# tools/export_arch.py and choose_arch.py write variants of this config
retrain_base = '{{ fileDirname }}/semantic-fpn_autonl-searched_1xb8_demo-seg.py'

# A supernet for all targets as the backbone of a Semantic FPN on scenes of handwritten
# digits. tools/choose_arch.py chooses its networks.
_base_ = [
    '../_base_/models/semantic_fpn_small.py',
    '../_base_/models/autonl-supernet_small.py',
    '../_base_/datasets/demo_seg_bs8.py',
    '../_base_/schedules/search_adamw_5e.py',
    '../_base_/search_range.py',
    '../_base_/mmseg_runtime.py',
]

task_model = _base_.model
task_model.backbone = dict(
    _base_.supernet, input_shape=(160, 160), out_indices=(2, 3, 4))
model = dict(
    _delete_=True,
    type='autonl_mm.CostAwareModel',
    model=task_model,
    cost_weight=0.05)
# 64 of the 600 scenes are kept from the weights.
images = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=images,
        holdout=64,
        split='train'))
search_hook, bn_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        search_hook,
        candidates=64,
        num_samples=64,
        recalibrate=64,
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=images,
            holdout=64,
            split='val')),
    bn_hook,
]
visualizer = dict(vis_backends=[
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
])
randomness = dict(seed=0)
# tools/choose_arch.py writes variants of this config
retrain_base = '{{ fileDirname }}/semantic-fpn_autonl-searched_1xb8_demo-seg.py'

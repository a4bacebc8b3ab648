# A supernet for all targets as the backbone of a Semantic FPN on scenes of handwritten
# digits. tools/choose_arch.py chooses its networks.
_base_ = 'autonl-supernet_semantic-fpn_1xb8_demo-seg.py'

model = dict(target=None)
# 64 of the 600 scenes are kept from the weights.
images = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=images,
        holdout=64,
        split='train'))
_, bn_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        type='autonl_mm.SandwichSearchHook',
        candidates=64,
        num_samples=64,
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=images,
            holdout=64,
            split='val')),
    bn_hook,
]

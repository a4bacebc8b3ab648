# A supernet for all targets as the backbone of a Semantic FPN on scenes of handwritten
# digits. tools/choose_arch.py chooses its networks.
_base_ = [
    'autonl-supernet_semantic-fpn_1xb8_demo-seg.py',
    '../_base_/search_range.py',
]

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
search_hook, bn_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        {**search_hook, **_base_.for_all_targets},
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=images,
            holdout=64,
            split='val')),
    bn_hook,
]

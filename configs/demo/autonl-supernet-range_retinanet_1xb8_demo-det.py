# A supernet for all targets as the backbone of a RetinaNet on scenes of handwritten
# digits. tools/choose_arch.py chooses its networks.
_base_ = 'autonl-supernet_retinanet_1xb8_demo-det.py'

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
        # A detector has no logits of classes that another network could learn: all
        # networks learn from the boxes.
        soft_targets=False,
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=images,
            holdout=64,
            split='val')),
    bn_hook,
]

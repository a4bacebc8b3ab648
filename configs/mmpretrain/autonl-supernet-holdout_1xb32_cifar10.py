# autonl-supernet_1xb32_cifar10.py with its candidates tried on 5,000 held-out training
# images, which are used neither for training nor for evaluation.
_base_ = 'autonl-supernet_1xb32_cifar10.py'

images = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=images,
        holdout=5000,
        split='train'))
search_hook, bn_hook, memory_hook = _base_.custom_hooks
custom_hooks = [
    dict(
        search_hook,
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=dict(images, pipeline=_base_.test_pipeline),
            holdout=5000,
            split='val')),
    bn_hook,
    memory_hook,
]

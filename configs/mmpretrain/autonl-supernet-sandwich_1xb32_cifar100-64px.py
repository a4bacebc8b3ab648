# A supernet for all targets from scratch on CIFAR-100 at 64x64, to compare with
# autonl-supernet-sandwich_remapped_1xb32_cifar100-64px.py.
_base_ = 'autonl-supernet-sandwich_1xb32_cifar100-32px.py'

train_pipeline = _base_.train_pipeline
train_pipeline.insert(3, dict(type='Resize', scale=64, interpolation='bicubic'))
test_pipeline = _base_.test_pipeline
test_pipeline.insert(1, dict(type='Resize', scale=64, interpolation='bicubic'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
search_hook, memory_hook = _base_.custom_hooks
search_hook.held_out.pipeline = test_pipeline
custom_hooks = [search_hook, memory_hook]

# The stages have the output strides of trained networks, 2, 4, 8 and 16.
space = _base_.model.model.backbone.space
space.stages[1].stride = 2
model = dict(
    target=None,
    model=dict(backbone=dict(input_shape=(64, 64), space=space)))
retrain_base = '{{ fileDirname }}/autonl-searched_1xb32_cifar100-64px.py'

# As autonl-searched_1xb32_cifar100-32px.py, at 64x64.
_base_ = 'autonl-searched_1xb32_cifar100-32px.py'

train_pipeline = _base_.train_pipeline
train_pipeline.insert(3, dict(type='Resize', scale=64, interpolation='bicubic'))
test_pipeline = _base_.test_pipeline
test_pipeline.insert(1, dict(type='Resize', scale=64, interpolation='bicubic'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

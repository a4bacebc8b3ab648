_base_ = 'tf-efficientnet-lite0_3rdparty-timm_in1k.py'

model = dict(backbone=dict(arch='tf_efficientnet_lite2'))
train_pipeline = [
    dict(step, scale=260) if 'scale' in step else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    dict(step, crop_size=260)
    if 'crop_size' in step else step for step in _base_.test_pipeline
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# AutoNL-S with the weights of the authors' TensorFlow release, converted by
# tools/model_converters/autonl_to_mm.py. It uses TensorFlow's padding, and the
# release's crop and resize for evaluation.
_base_ = 'autonl-s_32xb128_in1k.py'

model = dict(backbone=dict(conv_cfg=dict(type='Conv2dAdaptivePadding')))
test_pipeline = [
    dict(
        type='autonl_mm.LoadImageOrSkip',
        skip=False,
        color_type='color_ignore_orientation'),
    dict(type='autonl_mm.ReleaseCenterCrop', release='tf', size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

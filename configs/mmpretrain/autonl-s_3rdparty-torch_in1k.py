# AutoNL-S with the weights of the authors' PyTorch release, converted by
# tools/model_converters/autonl_to_mm.py. It is evaluated on the release's crops.
_base_ = 'autonl-s_32xb128_in1k.py'

test_pipeline = [
    dict(
        type='autonl_mm.LoadImageOrSkip',
        skip=False,
        color_type='color_ignore_orientation',
        imdecode_backend='pillow'),
    dict(type='autonl_mm.ReleaseCenterCrop', release='torch', size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# For choosing a recipe: trains on all but 1,500 of the training images, and validates
# on those.
_base_ = 'autonl-s_1xb64_imagenette-128.py'

train_dataloader = dict(
    dataset=dict(
        type='autonl_mm.HoldoutFolder', holdout=1500, split='train'))
val_dataloader = dict(
    dataset=dict(
        type='autonl_mm.HoldoutFolder',
        data_prefix='train',
        holdout=1500,
        split='val'))
test_dataloader = val_dataloader

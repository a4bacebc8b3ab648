# CIFAR-100 at its original size. Images are loaded in the training process, because on
# two cores workers cost more time than they save.
_base_ = 'cifar100_bs64_64px.py'

load, flips = _base_.tta_pipeline
tta_pipeline = [load, dict(flips, transforms=flips.transforms[1:])]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=[
        step for step in _base_.train_pipeline if step['type'] != 'Resize'
    ]))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=[
        step for step in _base_.test_pipeline if step['type'] != 'Resize'
    ]))
test_dataloader = val_dataloader
del load, flips

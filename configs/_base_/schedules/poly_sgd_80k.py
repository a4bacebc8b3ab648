# mmseg's schedule for Cityscapes. To change the number of iterations, set train_cfg
# and param_scheduler.end.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(
    type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict()
test_cfg = dict()

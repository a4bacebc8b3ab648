# The releases' recipe: 350 epochs of RMSprop with TensorFlow's update rule, 5 epochs
# of linear warm-up to lr 0.016 per 256 images, and a factor of 0.97 every 2.4 epochs
# in steps, counted from the start.
max_epochs = 350
optim_wrapper = dict(
    optimizer=dict(
        type='timm.optim.RMSpropTF',
        lr=0.256,
        alpha=0.9,
        momentum=0.9,
        eps=1e-3,
        weight_decay=1e-5),
    # weight decay on convolution and linear weights only
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    # The learning rate changes at the first epoch that begins at or after 2.4 * i,
    # which is ceil(12 * i / 5): mmengine's StepLR takes only whole epochs.
    dict(
        type='MultiStepLR',
        by_epoch=True,
        milestones=[-(-12 * i // 5) for i in range(1, max_epochs * 5 // 12 + 1)],
        gamma=0.97),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4096)

# EMA of weights and BN statistics
custom_hooks = [
    dict(
        type='autonl_mm.BatchScaledEMAHook',
        momentum=1e-4,
        base_batch_size=4096)
]

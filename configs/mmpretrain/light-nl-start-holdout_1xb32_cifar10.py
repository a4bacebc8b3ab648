# How the bounded LightNL of light-nl-steps_1xb32_cifar10.py is started, and how many
# channels it sees, tried on 5,000 training images that these runs are not trained on;
# none of them is evaluated on elsewhere. For tools/benchmarks/compare_steps.py.
_base_ = 'light-nl-steps_1xb32_cifar10.py'

bounded, wide = _base_.steps.bounded, _base_.steps.bounded_depthwise_output
steps = dict(
    _delete_=True,
    none=[],
    bounded=bounded,
    # The weight of its normalisation starts at 1 instead of 0.
    bounded_from_one=[
        dict(plugin, cfg=dict(plugin.cfg, zero_init=False))
        for plugin in bounded
    ],
    # All channels, at stride 1.
    wide=wide,
    wide_from_one=[
        dict(plugin, cfg=dict(plugin.cfg, zero_init=False)) for plugin in wide
    ])
model = dict(backbone=dict(plugins=bounded))
val_dataloader = dict(
    dataset=dict(split='train', indices=list(range(20000, 25000))))
test_dataloader = val_dataloader
del bounded, wide  # no settings of their own

# Search for a segmentor's backbone directly on CamVid, in the paper's space, from the
# weights of autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py's donor. The target is
# AutoNL-S's cost. Candidates are tried on training images that are held out.
_base_ = 'autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py'

task_model = _base_.model
task_model.backbone = dict(
    type='autonl_mm.AutoNLSuperNet',
    input_shape=(160, 160),
    out_indices=task_model.backbone.out_indices,
    norm_cfg=task_model.backbone.norm_cfg,
    init_cfg=task_model.backbone.init_cfg)
model = dict(
    _delete_=True,
    type='autonl_mm.CostAwareModel',
    model=task_model,
    cost_weight=0.,
    target=125.3e6)
# 96 of the 367 training images are kept from the weights.
images = _base_.train_dataloader.dataset
train_dataloader = dict(
    # A resumed search sees the same crops.
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='autonl_mm.HoldoutDataset',
        dataset=images,
        holdout=96,
        split='train'))
custom_hooks = [
    dict(
        type='autonl_mm.SandwichSearchHook',
        freeze_at=1.,
        num_samples=96,
        held_out=dict(
            type='autonl_mm.HoldoutDataset',
            dataset=images,
            holdout=96,
            split='val')),
    *_base_.custom_hooks,
]
# No threshold is trained.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(threshold=dict(decay_mult=0.))))
# The validation images are no business of the search: it never evaluates.
train_cfg = dict(val_begin=1000)
# tools/export_arch.py and choose_arch.py write variants of this config
retrain_base = '{{ fileDirname }}/autonl-s_remapped_fpn_1xb8-600i_camvid-160x160.py'

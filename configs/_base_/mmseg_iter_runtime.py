# For training counted in iterations.
_base_ = 'mmseg_runtime.py'

log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=8000))
tta_model = dict(type='SegTTAModel')

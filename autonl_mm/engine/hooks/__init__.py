# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .batch_scaled_ema_hook import BatchScaledEMAHook
from .channels_last_hook import ChannelsLastHook
from .compile_hook import CompileHook
from .data_time_hook import DataTimeHook
from .label_check_hook import LabelCheckHook, classifying_heads, is_binary
from .resume_check_hook import MismatchError, ResumeCheckHook, shorten
from .resume_hook import ResumeHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .skipped_images_hook import SkippedImagesHook
from .stop_hook import StopHook, Stopped

__all__ = [
    'BatchScaledEMAHook', 'ChannelsLastHook', 'CompileHook', 'DataTimeHook',
    'LabelCheckHook', 'ResumeCheckHook', 'MismatchError', 'ResumeHook',
    'SafeCheckpointHook', 'SkippedImagesHook', 'StopHook', 'Stopped',
    'classifying_heads', 'is_binary', 'shorten'
]

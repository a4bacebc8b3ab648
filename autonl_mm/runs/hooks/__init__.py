# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Hooks of training runs. ``autonl_mm.engine.hooks`` registers them."""
from mmengine.runner import Runner

from .checkpoint_classes_hook import CheckpointClassesHook
from .data_time_hook import DataTimeHook
from .label_check_hook import LabelCheckHook, classifying_heads, is_binary
from .resume_check_hook import ResumeCheckHook
from .resume_hook import ResumeHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .skipped_images_hook import SkippedImagesHook
from .stop_hook import StopHook, Stopped

__all__ = [
    'CheckpointClassesHook',
    'DataTimeHook',
    'LabelCheckHook',
    'ResumeCheckHook',
    'ResumeHook',
    'SafeCheckpointHook',
    'SkippedImagesHook',
    'StopHook',
    'Stopped',
    'add_run_hooks',
    'classifying_heads',
    'is_binary',
]


def add_run_hooks(runner: Runner, testing: bool = False) -> None:
    """Add the hooks that every run of the tools has with any config.

    Args:
        runner (Runner): The runner.
        testing (bool): Whether it evaluates a checkpoint instead of training.
            Defaults to False.
    """
    # StopHook saves after ResumeHook has removed the checkpoint that is replaced
    hooks = [LabelCheckHook, ResumeCheckHook, ResumeHook, SkippedImagesHook, StopHook]
    for hook in hooks + [CheckpointClassesHook] * testing:
        runner.register_hook(hook())

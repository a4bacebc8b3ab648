# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Hooks of this project, and the registration of the hooks of :mod:`autonl_mm.runs`."""
from autonl_mm.registry import HOOKS
from autonl_mm.runs import hooks as run_hooks

from .batch_scaled_ema_hook import BatchScaledEMAHook
from .channels_last_hook import ChannelsLastHook
from .compile_hook import CompileHook

__all__ = ['BatchScaledEMAHook', 'ChannelsLastHook', 'CompileHook']

for hook in (
        run_hooks.CheckpointClassesHook,
        run_hooks.DataTimeHook,
        run_hooks.LabelCheckHook,
        run_hooks.ResumeCheckHook,
        run_hooks.ResumeHook,
        run_hooks.SafeCheckpointHook,
        run_hooks.SkippedImagesHook,
        run_hooks.StopHook,
):
    HOOKS.register_module(module=hook)

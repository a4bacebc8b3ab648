# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The model inside of wrappers."""
import torch.nn as nn
from mmengine.model import is_model_wrapper


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside of a wrapper of distributed training, if there is one."""
    return model.module if is_model_wrapper(model) else model


def task_model(model: nn.Module) -> nn.Module:
    """The classifier, detector or segmentor inside of wrappers.

    A model that wraps a task model names it by its attribute ``task_model``.
    """
    model = unwrap_model(model)
    return getattr(model, 'task_model', model)

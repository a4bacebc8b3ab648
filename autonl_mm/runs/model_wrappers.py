# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The model inside of wrappers, and names of its parts."""
import re

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


def part_name(name: str) -> str:
    """Name of a module without its number in a list, as the heads of a cascade have.

    Args:
        name (str): From ``named_modules``, such as ``'roi_head.bbox_head.0'``.
    """
    return re.sub(r'\.\d+$', '', name)

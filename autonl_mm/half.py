# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Inference with all weights and feature maps in half precision."""
import re
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.runs.model_wrappers import part_name, task_model

# Parts of a task model whose results are turned to float32. Half precision is too
# coarse for comparing scores and computing boxes.
OUTPUTS = ('head', 'bbox_head', 'rpn_head', 'mask_head', 'roi_head.bbox_head',
           'roi_head.mask_head', 'decode_head.conv_seg')
# mmcv's operators do not support bfloat16.
FLOAT32 = ('roi_head.bbox_roi_extractor', 'roi_head.mask_roi_extractor')


def use_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert a task model's network to half precision, for inference.

    Three parts stay in float32: the normalisation of images, the post-processing of the
    heads' results, and LightNL's products, or its whole branch with
    ``normalize='size'``, see :class:`~autonl_mm.models.LightNL`.

    Args:
        model (nn.Module): Classifier, detector or segmentor, changed in place.
        dtype (torch.dtype): ``torch.float16`` or ``torch.bfloat16``.
    """
    model = task_model(model)
    model = getattr(model, 'module', model)  # of test-time augmentation
    for name, child in model.named_children():
        if name != 'data_preprocessor':
            child.to(dtype)
    modules = dict(model.named_modules())
    _cast_inputs(modules['backbone'], dtype)
    # A cascade has lists of heads. A segmentor's heads feed the next one, so only the
    # last one gives results.
    last = [name for name in modules
            if re.fullmatch(r'decode_head\.\d+\.conv_seg', name)][-1:]
    for name, module in modules.items():
        part = part_name(name)
        if part in OUTPUTS or name in last:
            _cast_outputs(module, torch.float32)
        elif part in FLOAT32:
            _cast_inputs(module, torch.float32)
            _cast_outputs(module, dtype)


def _cast_inputs(module: nn.Module, dtype: torch.dtype) -> None:
    module.register_forward_pre_hook(lambda _, args: _cast(args, dtype))


def _cast_outputs(module: nn.Module, dtype: torch.dtype) -> None:
    module.register_forward_hook(lambda _, args, out: _cast(out, dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors in nested sequences."""
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value

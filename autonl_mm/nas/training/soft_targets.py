# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Soft targets: outputs of one subnet that other subnets learn."""
from contextlib import contextmanager
from typing import Iterator, List

import torch
import torch.nn as nn
from torch import Tensor


def logits_layer(model: nn.Module) -> nn.Module:
    """The layer of a classifier or segmentor whose output is the logits.

    Args:
        model (nn.Module): A model of mmpretrain or mmseg.

    Returns:
        nn.Module: Its output is ``(N, K)``, or ``(N, K, H, W)`` of a segmentor.

    Raises:
        ValueError: If the model is neither, or its head is for several labels or tasks:
            boxes and independent labels are no distribution over classes.
    """
    heads = getattr(model, 'decode_head', None)
    head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    layer = getattr(head, 'conv_seg', None)
    if layer is None and not hasattr(model, 'bbox_head'):
        layer = getattr(model, 'head', None)
    kinds = {kind.__name__ for kind in type(layer).__mro__}
    if not isinstance(layer, nn.Module) or kinds & {
            'MultiLabelClsHead', 'MultiTaskHead'}:
        raise ValueError(
            f'soft_targets is True, but a {type(model).__name__} with the head '
            f'{type(layer).__name__} has no logits of classes that another subnet '
            'could learn, expected a classifier with one label per image or a '
            'segmentor with a decode_head: set soft_targets=False, then all '
            'subnets learn from the annotations')
    return layer


@contextmanager
def caught_logits(model: nn.Module) -> Iterator[List[Tensor]]:
    """Catch the logits of forward passes.

    Args:
        model (nn.Module): A classifier or segmentor.

    Yields:
        list[Tensor]: The logits of each forward pass in the ``with`` block.
    """
    found: List[Tensor] = []
    handle = logits_layer(model).register_forward_hook(
        lambda module, args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def soft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy with another subnet's distribution over classes.

    This is the in-place distillation of BigNAS (Yu et al., ECCV 2020, arXiv 2003.11142,
    section 3.1): the teacher is trained in the same step, and gets no gradient from
    this loss.

    Args:
        student (Tensor): Logits ``(N, K, ...)``; K is 1 for masks of 0 and 1.
        teacher (Tensor): Logits of the same shape.

    Returns:
        Tensor: A scalar, in float32 at least.
    """
    if student.shape[1] == 1:  # a sigmoid is the softmax of this logit and zero
        student, teacher = (torch.cat([torch.zeros_like(x), x], 1)
                            for x in (student, teacher))
    target = teacher.detach().float().softmax(1)
    return -(target * student.float().log_softmax(1)).sum(1).mean()

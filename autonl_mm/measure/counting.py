# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""MACs and parameters of networks."""
import math

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


def built_macs(model: nn.Module, *input_shape: int) -> int:
    """MACs of a network for one input, counted by torch from its operators.

    Convolutions, linear layers, matrix products and the sums of global average
    pooling count, as in :mod:`autonl_mm.cost`. Normalisation, activation and
    elementwise arithmetic do not. Nothing is computed: the tensors have no data,
    so an affinity matrix of any size can be counted.

    Args:
        model (nn.Module): The network. It is put into eval mode.
        *input_shape (int): ``C, H, W`` of the input.

    Returns:
        int: The number of multiply-accumulates.
    """
    model.eval()
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.mean: _operations_of_mean})
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, counter:
        model(torch.empty(1, *input_shape))
    return counter.get_total_flops() // 2


def _operations_of_mean(shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(shape)  # torch counts two operations per MAC


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(p.numel() for p in model.parameters())

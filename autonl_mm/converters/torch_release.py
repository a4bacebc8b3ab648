# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Weights of the authors' PyTorch release.

`meijieru/yet_another_mobilenet_series
<https://github.com/meijieru/yet_another_mobilenet_series>`_ names the stem
``features.0``, block N ``features.N+1``, the head convolution with the next
number, and the linear layer ``classifier.1``.
"""
import re
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

from autonl_mm.arch import ArchSpec
from autonl_mm.cost import check_input_shape
from autonl_mm.runs.checkpoints import fit_wrappers

from .layout import (
    BN_TENSORS,
    COUNTER,
    ConversionError,
    Layer,
    SourceTensors,
    classifier_layers,
    flatten,
    weights_or_averages,
)


def select(source: Mapping[str, Any],
           ema: bool = True) -> Tuple[Dict[str, Tensor], Dict[str, str]]:
    """Pick the weights of a checkpoint of the release.

    Args:
        source (Mapping): A state dict, or a training checkpoint ``{'model':
            ..., 'optimizer': ..., 'ema': {'shadow': {name: tensor}}, ...}``.
            Names may have the prefixes of wrappers, such as ``module.``.
        ema (bool): Whether moving averages replace the weights if there are any.
            Defaults to True.

    Returns:
        tuple[dict, dict]: Weights by name, without the prefixes; and the reasons for
        the tensors left out, by name.

    Raises:
        ConversionError: If there is no state dict, or only some weights have
            an average.
    """
    left_out = {}
    shadows = {}
    raw = source
    if isinstance(source.get('model'), Mapping):
        raw = source['model']
        average = source.get('ema') or {}
        if not isinstance(average, Mapping):
            raise ConversionError(
                f"'ema' of the checkpoint is a {type(average).__name__}, "
                "expected a dict with 'shadow'")
        shadows = _unwrapped(average.get('shadow') or {})
        rest = {k: v for k, v in average.items() if k != 'shadow'}
        left_out.update((n, 'training state') for n in flatten(rest, 'ema'))
        for key, value in source.items():
            if key not in ('model', 'ema'):
                reason = 'optimiser' if key == 'optimizer' else 'training state'
                left_out.update((n, reason) for n in flatten(value, key))
    raw = _unwrapped(raw)
    return weights_or_averages(raw, shadows, left_out, 'ema.shadow.{}', ema), left_out


def _unwrapped(tensors: Mapping[str, Any]) -> Dict[str, Any]:
    if not all(isinstance(name, str) for name in tensors):
        raise ConversionError('a state dict of the PyTorch release has only '
                              'strings as keys, this one has others as well')
    return dict(fit_wrappers(tensors))


def convert(weights: Mapping[str, Tensor],
            arch: ArchSpec,
            input_shape: Tuple[int, int] = (224, 224)) -> Dict[str, Tensor]:
    r"""Convert the release's weights to an ``ImageClassifier`` with AutoNL.

    AutoNL divides LightNL's product by the size of the feature map, but the
    release does not: its ``f / H * W`` is :math:`f` for square feature maps.
    The depthwise kernel after the product is therefore multiplied by
    :math:`HW` at the training resolution. At that resolution the converted
    network computes the same as the release.

    Args:
        weights (Mapping[str, Tensor]): As :func:`select` returns them.
        arch (ArchSpec): The network of these weights.
        input_shape (tuple[int, int]): ``(H, W)`` of the training images.
            Defaults to (224, 224).

    Returns:
        dict[str, Tensor]: The classifier's state dict, ``backbone.*`` and
        ``head.fc.*``, in float32.

    Raises:
        ConversionError: If a tensor is missing, unknown, of another shape or
            not finite; names it.
    """
    source = SourceTensors(weights)
    with_counters = any(name.endswith(COUNTER) for name in weights)
    num_classes = source.length('classifier.1.bias')
    state = {}
    for layer in classifier_layers(arch, num_classes,
                                   check_input_shape(input_shape)):
        conv, norm = _names(layer, len(arch.blocks))
        weight = source.take(f'{conv}.weight', layer.shape, layer)
        if layer.role == 'nl':
            weight *= layer.size[0] * layer.size[1]
        state[f'{layer.name}.weight'] = weight
        channels = layer.shape[:1]
        if layer.bias:
            state[f'{layer.name}.bias'] = source.take(f'{conv}.bias', channels,
                                                      layer)
            continue
        for name in BN_TENSORS:
            state[f'{layer.norm}.{name}'] = source.take(
                f'{norm}.{name}', channels, f'BN of {layer}')
        counter = torch.zeros((), dtype=torch.long)
        if with_counters:
            counter = source.take(f'{norm}.{COUNTER}', (), f'BN of {layer}',
                                  torch.long)
        state[f'{layer.norm}.{COUNTER}'] = counter
    # stem and head are features too
    features = {m[1] for m in map(re.compile(r'features\.(\d+)\.').match,
                                  weights) if m}
    source.finish(arch, max(0, len(features) - 2))
    return state


def _names(layer: Layer, num_blocks: int) -> Tuple[str, str]:
    """The release's names of a layer and of the BN after it."""
    if layer.role in ('stem', 'head'):
        feature = f'features.{0 if layer.role == "stem" else num_blocks + 1}'
        return f'{feature}.0', f'{feature}.1'
    if layer.role == 'fc':
        return 'classifier.1', ''
    feature = f'features.{layer.index + 1}'
    if layer.role in ('se_reduce', 'se_expand'):
        return f'{feature}.se_op.{layer.role}', ''
    if layer.role == 'nl':
        return f'{feature}.nl_op.depthwise_conv', f'{feature}.nl_op.bn'
    if layer.role == 'depthwise':
        # After an expansion, number 0 is a slice of its channels.
        name = f'{feature}.depth_ops.0.{int(layer.block.with_expand)}'
    else:
        name = f'{feature}.{layer.role}_conv'
    return f'{name}.0', f'{name}.1'

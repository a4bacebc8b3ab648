# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Weights of the authors' TensorFlow release.

In `LiYingwei/AutoNL <https://github.com/LiYingwei/AutoNL>`_ the convolutions
are in ``single-path/mnas_net_model/<scope>/`` and their BNs in
``single-path/<scope>/``. The scopes are ``mnas_stem``, ``mnas_blocks_N`` (with
``se`` and ``nl`` inside) and ``mnas_head``. TensorFlow numbers the layers of
each kind in the order in which they are built, and starts again for the BNs of
each scope. A layer is therefore found by scope, kind and order.
"""
import re
from collections import defaultdict
from typing import Any, Dict, List, Mapping, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.arch import ArchSpec

from .layout import (
    BN_TENSORS,
    COUNTER,
    Layer,
    SourceTensors,
    classifier_layers,
    weights_or_averages,
)

AVERAGE = '/ExponentialMovingAverage'
# Variables of TensorFlow's optimisers, <variable>/<slot>.
_SLOT = re.compile(
    r'.*/(RMSProp|Momentum|Adam\w*|Adagrad|Adadelta|Ftrl|LARS\w*|rms|momentum)'
    r'(_[1-9][0-9]*)?|(.*/)?beta[12]_power')
_LAYER = re.compile(
    r'single-path/(?:mnas_net_model/)?'
    r'(?:mnas_stem|mnas_head|mnas_blocks_\d+(?:/se|/nl)?)/'
    r'(?P<kind>conv2d|depthwise_conv2d|dense|batch_normalization)'
    r'(?:_(?P<number>[1-9][0-9]*))?/(?P<tensor>\w+)')
_BUILT = ('expand', 'depthwise', 'se_reduce', 'se_expand', 'project', 'nl')
_BN = dict(
    zip(BN_TENSORS, ('gamma', 'beta', 'moving_mean', 'moving_variance')))


def select(source: Mapping[str, Any],
           ema: bool = True) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Pick the weights of a checkpoint's variables.

    Args:
        source (Mapping[str, ndarray]): Variables by name.
        ema (bool): Whether ``<name>/ExponentialMovingAverage`` replaces ``<name>`` if
            there are such averages. Defaults to True.

    Returns:
        tuple[dict, dict]: Weights by name, without the suffix; and the reasons for
        the variables left out, by name.

    Raises:
        ConversionError: If only some weights have an average.
    """
    raw, shadows, left_out = {}, {}, {}
    for name, value in source.items():
        if name == 'global_step':
            left_out[name] = 'global step'
        elif _SLOT.fullmatch(name):
            left_out[name] = 'optimiser'
        elif name.endswith(AVERAGE):
            shadows[name[:-len(AVERAGE)]] = value
        else:
            raw[name] = value
    return weights_or_averages(raw, shadows, left_out, '{}' + AVERAGE, ema), left_out


def convert(weights: Mapping[str, Any], arch: ArchSpec) -> Dict[str, Tensor]:
    """Convert the release's weights to an ``ImageClassifier`` with AutoNL.

    The classifier must pad as TensorFlow does, ``conv_cfg=dict(type=
    'Conv2dAdaptivePadding')``. Squeeze-excite has ``int(C * ratio)`` hidden
    units in the release and ``round(C * ratio)`` here. If that is one more,
    the extra unit is filled with zeros, which does not change the result.

    Args:
        weights (Mapping[str, ndarray]): As :func:`select` returns them:
            convolutions ``(kh, kw, in, out)``, depthwise ones ``(kh, kw, C,
            1)``, the linear layer ``(in, out)``.
        arch (ArchSpec): The network of these weights.

    Returns:
        dict[str, Tensor]: The classifier's state dict, ``backbone.*`` and
        ``head.fc.*``, in float32.

    Raises:
        ConversionError: If a variable is missing, unknown, ambiguous, of another
            shape or not finite; names it.
    """
    source = SourceTensors(weights)
    num_classes = 0
    for name in weights:
        match = _LAYER.fullmatch(name)
        if match and (match['kind'], match['tensor']) == ('dense', 'bias'):
            num_classes = source.length(name)
    layers = classifier_layers(arch, num_classes)
    names = _match(layers, source, weights)
    state = {}
    for layer in layers:
        conv, norm = names[layer.name], names.get(layer.norm)
        weight = _take_weight(source, conv, layer)
        state[f'{layer.name}.weight'] = _fill_up(weight, layer.shape)
        if layer.bias:
            bias = source.take(f'{conv}/bias', _shape(layer)[:1], layer)
            state[f'{layer.name}.bias'] = _fill_up(bias, layer.shape[:1])
            continue
        for ours, theirs in _BN.items():
            state[f'{layer.norm}.{ours}'] = source.take(
                f'{norm}/{theirs}', layer.shape[:1], f'BN of {layer}')
        state[f'{layer.norm}.{COUNTER}'] = torch.zeros((), dtype=torch.long)
    blocks = {m[1] for m in map(re.compile(r'.*/mnas_blocks_(\d+)/').match,
                                weights) if m}
    source.finish(arch, len(blocks))
    return state


def _shape(layer: Layer) -> Tuple[int, ...]:
    """A layer's shape in torch's order, with the release's rounding."""
    if not layer.role.startswith('se_'):
        return layer.shape
    hidden = max(1, int(layer.block.in_channels * layer.block.se_ratio))
    out, in_, kh, kw = layer.shape
    if layer.role == 'se_reduce':
        return hidden, in_, kh, kw
    return out, hidden, kh, kw


def _fill_up(tensor: Tensor, shape: Tuple[int, ...]) -> Tensor:
    """Append zeros to every dimension of a tensor, up to a shape."""
    pad = []
    for have, want in zip(tensor.shape[::-1], shape[::-1]):
        pad += [0, want - have]
    return F.pad(tensor, pad)


def _take_weight(source: SourceTensors, name: str, layer: Layer) -> Tensor:
    """A layer's weight in torch's order of dimensions."""
    if layer.role == 'fc':
        weight = source.take(f'{name}/kernel', layer.shape[::-1], layer)
        return weight.t().contiguous()
    out, in_, kh, kw = _shape(layer)
    if layer.role in ('depthwise', 'nl'):
        weight = source.take(f'{name}/depthwise_kernel', (kh, kw, out, in_),
                             layer)
        return weight.permute(2, 3, 0, 1).contiguous()
    weight = source.take(f'{name}/kernel', (kh, kw, in_, out), layer)
    return weight.permute(3, 2, 0, 1).contiguous()


def _match(layers: List[Layer], source: SourceTensors,
           weights: Mapping[str, Any]) -> Dict[str, str]:
    """Find the release's name of each layer and BN.

    Args:
        layers (list[Layer]): Layers to find.
        source (SourceTensors): Ambiguous layers are reported to it.
        weights (Mapping): Weights by the release's names.

    Returns:
        dict[str, str]: The release's name by our name, for layers and BNs.
        If it is unknown, a name that is not in ``weights``.
    """
    # By (folder, kind): names of layers by their number, and names of tensors.
    found = defaultdict(dict)
    tensors = defaultdict(list)
    for name in weights:
        match = _LAYER.fullmatch(name)
        if not match:
            continue
        layer_name = name.rpartition('/')[0]
        place = layer_name.rpartition('/')[0], match['kind']
        found[place][int(match['number'] or 0)] = layer_name
        tensors[place].append(name)

    expected = defaultdict(list)
    for layer in layers:
        scope = f'mnas_{layer.role}'
        if layer.role == 'fc':
            scope = 'mnas_head'
        elif layer.index is not None:
            scope = f'mnas_blocks_{layer.index}'
            if layer.role == 'nl' or layer.role.startswith('se_'):
                scope += f'/{layer.role[:2]}'
        kind = dict(
            fc='dense', depthwise='depthwise_conv2d',
            nl='depthwise_conv2d').get(layer.role, 'conv2d')
        expected[f'single-path/mnas_net_model/{scope}',
                 kind].append((layer.name, layer))
        if layer.norm:
            expected[f'single-path/{scope}',
                     'batch_normalization'].append((layer.norm, layer))

    names = {}
    numbers = defaultdict(list)
    for place, wanted in expected.items():
        folder, kind = place
        have = found.get(place, {})
        if have and len(have) != len(wanted):
            roles = ', '.join(layer.role for _, layer in wanted)
            source.ambiguous(
                f'{folder} has {len(have)} {kind} '
                f'({", ".join(n.rpartition("/")[2] for n in have.values())}), '
                f'expected {len(wanted)} ({roles})', tensors[place])
            have = {}
        order = sorted(have)
        for i, (name, layer) in enumerate(wanted):
            if have:
                names[name] = have[order[i]]
                numbers[kind].append((layer, order[i], names[name]))
            else:
                names[name] = f'{folder}/{kind}*'
    for kind in ('conv2d', 'depthwise_conv2d'):
        _check_numbers(kind, numbers[kind], source)
    return names


def _check_numbers(kind: str, numbers: List[Tuple[Layer, int, str]],
                   source: SourceTensors) -> None:
    """Report layers whose numbers contradict the order of building.

    That order is expand, SE reduce, SE expand, project in each block; stem and
    head are built last. If the numbers have another order, they cannot be used
    to tell layers apart.
    """
    def built(entry):
        layer = entry[0]
        if layer.index is None:
            return 1, ('stem', 'head').index(layer.role)
        return 0, layer.index, _BUILT.index(layer.role)

    numbers = sorted(numbers, key=built)
    for (_, before, first), (_, after, second) in zip(numbers, numbers[1:]):
        if after <= before:
            source.ambiguous(
                f'{second} should be built after {first}, but the numbers of '
                f'{kind} have another order', [])

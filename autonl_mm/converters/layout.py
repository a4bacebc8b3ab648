# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The layers to fill, and checks of tensors, for both converters."""
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from autonl_mm.arch import ArchSpec, BlockSpec
from autonl_mm.cost import iter_blocks, strided

BN_TENSORS = ('weight', 'bias', 'running_mean', 'running_var')
COUNTER = 'num_batches_tracked'
# How many names of each kind an error message lists.
LISTED = 3


class ConversionError(ValueError):
    """The weights do not fit the release or the arch."""


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer of the classifier to fill.

    Args:
        role (str): ``'stem'``, ``'expand'``, ``'depthwise'``, ``'se_reduce'``,
            ``'se_expand'``, ``'project'``, ``'nl'`` (LightNL's), ``'head'``
            or ``'fc'``.
        name (str): Name in an ``ImageClassifier`` with AutoNL.
        norm (str, optional): Name of the BN after the layer; None without BN.
        shape (tuple[int, ...]): Shape of the weight in torch.
        block (BlockSpec, optional): The layer's block. Defaults to None.
        index (int, optional): Number of the block, from 0. Defaults to None.
        size (tuple[int, int], optional): ``(H, W)`` of the block's output.
            Defaults to None.
    """
    role: str
    name: str
    norm: Optional[str]
    shape: Tuple[int, ...]
    block: Optional[BlockSpec] = None
    index: Optional[int] = None
    size: Optional[Tuple[int, int]] = None

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias, as all layers without BN."""
        return self.norm is None

    def __str__(self) -> str:
        if self.index is None:
            return f'the {self.role}'
        return f'{self.role} of block {self.index}'


def classifier_layers(
        arch: ArchSpec,
        num_classes: int,
        input_shape: Tuple[int, int] = (224, 224)) -> List[Layer]:
    """All layers with weights of an AutoNL classifier, in order of execution.

    Args:
        arch (ArchSpec): The network.
        num_classes (int): Outputs of the linear layer.
        input_shape (tuple[int, int]): ``(H, W)`` of the image, for the
            layers' ``size``. Defaults to (224, 224).

    Returns:
        list[Layer]: The layers.

    Raises:
        ConversionError: If the arch does not have ``normalize='size'``.
    """
    if arch.normalize == 'rms':
        raise ConversionError(
            "the arch has normalize 'rms', but the authors' weights are for 'size': "
            "use arch.with_normalize('size')")

    def conv_module(role: str, name: str, *shape: int, **kwargs) -> Layer:
        return Layer(role, f'{name}.conv', f'{name}.bn', shape, **kwargs)

    layers = [
        conv_module('stem', 'backbone.layers.0', arch.stem_channels, 3, 3, 3)
    ]
    for index, (name, block, size) in enumerate(iter_blocks(arch, input_shape)):
        name = f'backbone.{name}'
        mid = block.mid_channels if block.with_expand else block.in_channels
        out, se, k = block.out_channels, block.se_channels, block.kernel_size
        place = dict(
            block=block, index=index, size=strided(size, block.stride))
        if block.with_expand:
            layers.append(
                conv_module('expand', f'{name}.expand', mid, block.in_channels,
                            1, 1, **place))
        layers.append(
            conv_module('depthwise', f'{name}.depthwise', mid, 1, k, k,
                        **place))
        if se:
            layers += [
                Layer('se_reduce', f'{name}.se.reduce', None, (se, mid, 1, 1),
                      **place),
                Layer('se_expand', f'{name}.se.expand', None, (mid, se, 1, 1),
                      **place),
            ]
        layers.append(
            conv_module('project', f'{name}.project', out, mid, 1, 1, **place))
        if block.nl_channels:
            layers.append(
                Layer('nl', f'{name}.light_nl.conv', f'{name}.light_nl.norm',
                      (out, 1, 3, 3), **place))
    head = arch.head_channels
    return layers + [
        conv_module('head', f'backbone.layers.{len(arch.stages) + 1}', head,
                    arch.blocks[-1].out_channels, 1, 1),
        Layer('fc', 'head.fc', None, (num_classes, head)),
    ]


def flatten(tree: Any, prefix: str) -> Iterator[str]:
    """Names of the tensors in nested dicts and lists, ``prefix.key.key``."""
    if isinstance(tree, (Tensor, np.ndarray)):
        yield prefix
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f'{prefix}.{key}')
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from flatten(value, f'{prefix}.{i}')


def weights_or_averages(raw: Mapping[str, Any], shadows: Mapping[str, Any],
                        left_out: Dict[str, str], pattern: str,
                        ema: bool) -> Dict[str, Any]:
    """Choose the moving averages if there are any, else the weights.

    Args:
        raw (Mapping): Weights by name.
        shadows (Mapping): Their moving averages by the same names.
        left_out (dict): Names of unused weights or averages are added to it.
        pattern (str): Name of an average in the source, ``{}`` for the weight's.
        ema (bool): Whether averages are used at all.

    Returns:
        dict: Weights by name.

    Raises:
        ConversionError: If only some weights have an average: nobody has evaluated
            a network with a mixture of both.
    """
    if not ema:
        left_out.update((pattern.format(name), 'moving average, not wanted')
                        for name in shadows)
    if not ema or not shadows:
        return dict(raw)
    alone = [n for n in raw if n not in shadows and not n.endswith(COUNTER)]
    if alone:
        raise ConversionError(
            f'{len(alone)} of {len(raw)} weights have no moving average '
            f'({pattern.format("<name>")}), the others have: {_some(alone)}. Complete '
            'the file, or convert the weights themselves (ema=False, --no-ema)')
    left_out.update((name, 'replaced by its moving average') for name in raw
                    if name in shadows)
    return {**raw, **shadows}


class SourceTensors:
    """Tensors of a release, to be taken once each.

    One error reports all problems.

    Args:
        tensors (Mapping[str, Tensor | ndarray]): Tensors by the release's
            names.
    """

    def __init__(self, tensors: Mapping[str, Any]):
        self._left = dict(tensors)
        self._problems = defaultdict(list)

    def length(self, name: str) -> int:
        """Length of the vector with this name, 0 if there is none."""
        shape = tuple(getattr(self._left.get(name), 'shape', ()))
        return shape[0] if len(shape) == 1 else 0

    def take(self,
             name: str,
             shape: Tuple[int, ...],
             what: Any,
             dtype: torch.dtype = torch.float32) -> Tensor:
        """Take a tensor and check it.

        Args:
            name (str): Its name.
            shape (tuple[int, ...]): The shape that it must have.
            what (Any): Its use, for the error message.
            dtype (torch.dtype): Dtype of the result. Defaults to float32.

        Returns:
            Tensor: A copy. If there is a problem, zeros; :meth:`finish` then
            raises an error.
        """
        value = self._left.pop(name, None)
        shape = tuple(shape)
        if value is None:
            self._problems['missing'].append(f'{name} for {what}')
        elif not isinstance(value, (Tensor, np.ndarray)):
            self._problems['not a tensor'].append(
                f'{name}, of type {type(value).__name__}')
        elif tuple(value.shape) != shape:
            self._problems['of another shape'].append(
                f'{name} is {tuple(value.shape)}, expected {shape} for {what}')
        elif isinstance(value, np.ndarray) and value.dtype.kind not in 'fiu':
            self._problems['not of numbers'].append(f'{name}, of {value.dtype}')
        else:
            if isinstance(value, np.ndarray):  # of any byte order
                value = torch.from_numpy(
                    value.astype(value.dtype.newbyteorder('=')))
            tensor = value.detach().to('cpu', dtype, copy=True)
            if not tensor.isfinite().all():
                self._problems['not finite'].append(name)
            return tensor
        return torch.zeros(shape, dtype=dtype)

    def ambiguous(self, problem: str, names: List[str]) -> None:
        """Record tensors that cannot be assigned to layers.

        Args:
            problem (str): The reason.
            names (list[str]): The tensors, which are not reported as unknown.
        """
        self._problems['ambiguous'].append(problem)
        for name in names:
            self._left.pop(name, None)

    def finish(self, arch: ArchSpec, num_blocks: int) -> None:
        """Check that there was no problem and no tensor is left.

        Args:
            arch (ArchSpec): The network to fill.
            num_blocks (int): Number of blocks in the tensors' names.

        Raises:
            ConversionError: If there was a problem or a tensor is left.
        """
        if self._left:
            self._problems['unknown'] = list(self._left)
        if not self._problems:
            return
        kinds = '; '.join(f'{len(found)} {kind}: {_some(found)}'
                          for kind, found in self._problems.items())
        blocks = f'{len(arch.blocks)} blocks'
        if num_blocks != len(arch.blocks):
            blocks += f' (the weights have {num_blocks})'
        raise ConversionError(
            f'the weights do not fit the arch of {blocks}: {kinds}. Give the '
            'arch and the release of these weights, and the complete file')


def _some(found: List[str]) -> str:
    shown = ', '.join(found[:LISTED])
    return shown + ', ...' if len(found) > LISTED else shown

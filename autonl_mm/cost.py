# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Multiply-accumulates (MACs) of blocks and of whole networks.

Counted are convolutions, the linear layer, the sums of global average pooling
and LightNL's two products; not normalisation, activation and elementwise
arithmetic. mmengine's ``FlopAnalyzer`` counts the same, operator by operator,
once its count of batch normalisation is switched off.

:func:`block_macs` is plain arithmetic, so it takes numbers for an ArchSpec
and tensors for the widths that a supernet's gates choose.
"""
from dataclasses import dataclass
from typing import Dict, Optional, Tuple, Union

from .arch import ArchSpec

Size = Tuple[int, int]


@dataclass(frozen=True)
class LayerCost:
    """One row of a :class:`Cost`.

    Args:
        name (str): The layer's name in the built network: as in AutoNL for
            the backbone's, as in a classifier for ``neck.gap`` and
            ``head.fc``.
        macs (int): Multiply-accumulates for one image.
        output_shape (tuple[int, int, int]): ``(C, H, W)`` of its output.
    """
    name: str
    macs: int
    output_shape: Tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """MACs of a network, layer by layer.

    Args:
        rows (tuple[LayerCost, ...]): One row a layer, in order of execution.
    """
    rows: Tuple[LayerCost, ...]

    @property
    def total(self) -> int:
        """MACs of the whole network for one image."""
        return sum(row.macs for row in self.rows)


def strided(size: Size, stride: int) -> Size:
    """``(H, W)`` after a padded convolution or a slice ``[::stride]``."""
    return -(-size[0] // stride), -(-size[1] // stride)


def light_nl_macs(channels, nl_channels, positions, sampled) -> Dict:
    """MACs of LightNL's two products in both association orders.

    Args:
        channels: C.
        nl_channels: k, the channels of the compact features.
        positions: ``HW``, positions of the full map.
        sampled: ``hw``, positions of the strided map.

    Returns:
        dict: ``channel`` forms the C x k context matrix, ``spatial`` the
        HW x hw affinity.
    """
    return dict(
        channel=(sampled + positions) * nl_channels * channels,
        spatial=positions * sampled * (nl_channels + channels))


def light_nl_order(channels: int, nl_channels: int, positions: int,
                   sampled: int) -> str:
    """The cheaper association order for a shape, ``channel`` in a tie."""
    macs = light_nl_macs(channels, nl_channels, positions, sampled)
    return 'spatial' if macs['spatial'] < macs['channel'] else 'channel'


def block_macs(in_size: Size,
               stride: int,
               in_channels: int,
               out_channels: int,
               mid_channels,
               kernel_area,
               with_expand: bool = True,
               se_channels=0,
               nl_channels=0,
               nl_stride: int = 1) -> Dict:
    """MACs of one inverted residual block by sublayer.

    Args:
        in_size (tuple[int, int]): ``(H, W)`` of the block's input.
        stride (int): Stride of the depthwise convolution.
        in_channels (int): Channels in.
        out_channels (int): Channels out.
        mid_channels: Hidden width.
        kernel_area: Taps of the depthwise kernel, ``k * k``.
        with_expand (bool): Whether there is an expand convolution.
        se_channels: Hidden units of squeeze-excite, 0 for none.
        nl_channels: Channels of LightNL's compact features, 0 for none.
        nl_stride (int): LightNL's stride.

    Returns:
        dict: From the sublayer's name in MBConv to its MACs.
    """
    out_size = strided(in_size, stride)
    in_positions = in_size[0] * in_size[1]
    positions = out_size[0] * out_size[1]
    macs = {}
    if with_expand:
        macs['expand.conv'] = in_positions * in_channels * mid_channels
    macs['depthwise.conv'] = positions * kernel_area * mid_channels
    if se_channels:
        macs['se.pool'] = positions * mid_channels
        macs['se.reduce'] = mid_channels * se_channels
        macs['se.expand'] = mid_channels * se_channels
    macs['project.conv'] = positions * mid_channels * out_channels
    if nl_channels:
        sampled = strided(out_size, nl_stride)
        sampled = sampled[0] * sampled[1]
        order = light_nl_order(out_channels, nl_channels, positions, sampled)
        macs['light_nl'] = light_nl_macs(out_channels, nl_channels, positions,
                                         sampled)[order]
        macs['light_nl.conv'] = positions * 9 * out_channels
    return macs


def count_macs(arch: ArchSpec,
               input_shape: Union[int, Size] = (224, 224),
               num_classes: Optional[int] = 1000) -> Cost:
    """MACs of the network that AutoNL builds from a spec, for one image.

    Args:
        arch (ArchSpec): The network.
        input_shape (tuple[int, int] | int): ``(H, W)`` of the input picture.
            Defaults to (224, 224).
        num_classes (int, optional): Outputs of the classifier's linear
            layer; None for the backbone alone. Defaults to 1000.

    Returns:
        Cost: ``.total``, and ``.rows`` with one row a layer.

    Raises:
        ValueError: If ``input_shape`` is not a height and a width.
    """
    if isinstance(input_shape, int):
        input_shape = (input_shape, input_shape)
    if len(input_shape) != 2 or min(input_shape) < 1:
        raise ValueError(f'input_shape is {input_shape}, expected a positive '
                         'height and width')
    rows = []
    size = strided(input_shape, 2)
    rows.append(
        LayerCost('layers.0.conv',
                  size[0] * size[1] * 27 * arch.stem_channels,
                  (arch.stem_channels, *size)))
    for i, stage in enumerate(arch.stages, 1):
        for j, block in enumerate(stage):
            in_size, size = size, strided(size, block.stride)
            macs = block_macs(
                in_size,
                block.stride,
                block.in_channels,
                block.out_channels,
                block.mid_channels,
                block.kernel_size**2,
                with_expand=block.with_expand,
                se_channels=block.se_channels,
                nl_channels=block.nl_channels,
                nl_stride=block.nl_stride)
            shapes = {
                'expand.conv': (block.mid_channels, *in_size),
                'depthwise.conv': (block.mid_channels, *size),
                'se.pool': (block.mid_channels, 1, 1),
                'se.reduce': (block.se_channels, 1, 1),
                'se.expand': (block.mid_channels, 1, 1),
            }
            rows += [
                LayerCost(f'layers.{i}.{j}.{name}', value,
                          shapes.get(name, (block.out_channels, *size)))
                for name, value in macs.items()
            ]
    head = arch.head_channels
    positions = size[0] * size[1]
    rows.append(
        LayerCost(f'layers.{len(arch.stages) + 1}.conv',
                  positions * arch.blocks[-1].out_channels * head,
                  (head, *size)))
    if num_classes is not None:
        rows.append(LayerCost('neck.gap', positions * head, (head, 1, 1)))
        rows.append(
            LayerCost('head.fc', head * num_classes, (num_classes, 1, 1)))
    return Cost(tuple(rows))

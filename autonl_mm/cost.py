# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Cost of blocks and of whole networks: MACs or measured latency.

Multiply-accumulates (MACs) are counted for convolutions, the linear layer, the
sums of global average pooling and LightNL's products, but not for
normalisation, activations and elementwise arithmetic. mmengine's
``FlopAnalyzer`` gives the same count for every operator if its count of batch
normalisation is switched off.

A cost model, :class:`MacsModel`, :class:`ParamsModel` or :class:`LatencyTable`, gives
the cost of a block and of a whole network. A supernet asks it for the cost of every
candidate block and weights these by its gates; the search has no other cost formula.
"""
from dataclasses import dataclass
from os import PathLike
from typing import Dict, Iterator, Mapping, Optional, Tuple, Union

from autonl_mm.runs.config_parts import type_name
from autonl_mm.runs.text_files import check_json, read_json

from .arch import ArchSpec, BlockSpec, Placement

Size = Tuple[int, int]


@dataclass(frozen=True)
class LayerCost:
    """One row of a :class:`Cost`.

    Args:
        name (str): Name of the layer in AutoNL; ``neck.gap`` and ``head.fc`` as in
            a classifier.
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
        rows (tuple[LayerCost, ...]): One row per layer, in order of execution.
    """
    rows: Tuple[LayerCost, ...]

    @property
    def total(self) -> int:
        """MACs of the whole network for one image."""
        return sum(row.macs for row in self.rows)


def strided(size: Size, stride: int) -> Size:
    """``(H, W)`` after a padded convolution or a slice ``[::stride]``."""
    return -(-size[0] // stride), -(-size[1] // stride)


def light_nl_macs(channels, nl_channels, positions, sampled,
                  normalize: str = 'rms') -> Dict:
    """MACs of LightNL's products in both association orders.

    Args:
        channels: C.
        nl_channels: k, the channels of the compact features.
        positions: ``HW``, positions of the full feature map.
        sampled: ``hw``, positions of the strided feature map.
        normalize (str): Divisor of the product, ``'rms'`` or ``'size'``. With ``'rms'``
            the channel order has a third product, k x k by k x C. The spatial order
            squares and sums its result, which counts as elementwise arithmetic.
            Defaults to ``'rms'``.

    Returns:
        dict: MACs by order: ``channel`` forms the C x k context matrix,
        ``spatial`` the HW x hw affinity.
    """
    channel = (sampled + positions) * nl_channels * channels
    if normalize == 'rms':
        channel = channel + nl_channels * nl_channels * channels
    return dict(
        channel=channel,
        spatial=positions * sampled * (nl_channels + channels))


def light_nl_order(channels: int, nl_channels: int, positions: int,
                   sampled: int, normalize: str = 'rms') -> str:
    """The cheaper order for a shape, ``channel`` if both cost the same."""
    macs = light_nl_macs(channels, nl_channels, positions, sampled, normalize)
    return 'spatial' if macs['spatial'] < macs['channel'] else 'channel'


def block_macs(spec: BlockSpec, in_size: Size,
               stride: Optional[int] = None) -> Dict[str, int]:
    """MACs of one inverted residual block by sublayer.

    Args:
        spec (BlockSpec): The block.
        in_size (tuple[int, int]): ``(H, W)`` of the block's input.
        stride (int, optional): Stride in place of the spec's, where dilation
            replaces stride. Defaults to None.

    Returns:
        dict[str, int]: From the sublayer's name in MBConv to its MACs.
    """
    out_size = strided(in_size, stride or spec.stride)
    in_positions = in_size[0] * in_size[1]
    positions = out_size[0] * out_size[1]
    mid, out = spec.mid_channels, spec.out_channels
    macs = {}
    if spec.with_expand:
        macs['expand.conv'] = in_positions * spec.in_channels * mid
    macs['depthwise.conv'] = positions * spec.kernel_size**2 * mid
    if spec.se_channels:
        macs['se.pool'] = positions * mid
        macs['se.reduce'] = macs['se.expand'] = mid * spec.se_channels
    macs['project.conv'] = positions * mid * out
    if spec.nl_channels:
        sampled = strided(out_size, spec.nl_stride)
        sampled = sampled[0] * sampled[1]
        macs['light_nl'] = min(
            light_nl_macs(out, spec.nl_channels, positions, sampled,
                          spec.normalize).values())
        macs['light_nl.conv'] = positions * 9 * out
    return macs


def iter_blocks(arch: ArchSpec, input_shape: Size, output_stride: int = 32
                ) -> Iterator[Tuple[str, BlockSpec, Size]]:
    """The blocks of a network, each with its name and its input's size.

    Args:
        arch (ArchSpec): The network.
        input_shape (tuple[int, int]): ``(H, W)`` of the input image.
        output_stride (int): As for AutoNL. Defaults to 32.

    Yields:
        tuple: Name in AutoNL, BlockSpec, ``(H, W)`` of the block's input.
    """
    size = strided(input_shape, 2)
    placements = iter(arch.placements(output_stride))
    for i, stage in enumerate(arch.stages, 1):
        for j, block in enumerate(stage):
            yield f'layers.{i}.{j}', block, size
            size = strided(size, next(placements).stride)


def count_macs(arch: ArchSpec,
               input_shape: Union[int, Size] = (224, 224),
               num_classes: Optional[int] = 1000,
               with_head: bool = True,
               in_channels: int = 3,
               output_stride: int = 32) -> Cost:
    """MACs of the network that AutoNL builds from a spec, for one image.

    Args:
        arch (ArchSpec): The network.
        input_shape (tuple[int, int] | int): ``(H, W)`` of the input image.
            Defaults to (224, 224).
        num_classes (int, optional): Outputs of the classifier's linear
            layer; None for the backbone alone. Defaults to 1000.
        with_head (bool): Whether the head convolution is built; without it
            there is no classifier either. Defaults to True.
        in_channels (int): Channels of the image. Defaults to 3.
        output_stride (int): 32, 16 or 8, as for AutoNL. Defaults to 32.

    Returns:
        Cost: ``.total``, and ``.rows`` with one row per layer.

    Raises:
        ValueError: If ``input_shape`` is not a height and a width, or
            ``output_stride`` is another number.
    """
    input_shape = check_input_shape(input_shape)
    rows = []
    size = strided(input_shape, 2)
    rows.append(
        LayerCost('layers.0.conv',
                  size[0] * size[1] * 9 * in_channels * arch.stem_channels,
                  (arch.stem_channels, *size)))
    for (prefix, block, in_size), placement in zip(
            iter_blocks(arch, input_shape, output_stride),
            arch.placements(output_stride)):
        size = strided(in_size, placement.stride)
        mid, se = block.mid_channels, block.se_channels
        shapes = {
            'expand.conv': (mid, *in_size),
            'depthwise.conv': (mid, *size),
            'se.pool': (mid, 1, 1),
            'se.reduce': (se, 1, 1),
            'se.expand': (mid, 1, 1),
        }
        rows += [
            LayerCost(f'{prefix}.{name}', macs,
                      shapes.get(name, (block.out_channels, *size)))
            for name, macs in block_macs(
                block, in_size, placement.stride).items()
        ]
    if not with_head:
        return Cost(tuple(rows))
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


def check_input_shape(input_shape: Union[int, Size]) -> Size:
    """``(H, W)`` of a size or a pair of sizes.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(input_shape, int):
        input_shape = (input_shape, input_shape)
    if len(input_shape) != 2 or min(input_shape) < 1:
        raise ValueError(f'input_shape is {input_shape}, expected a positive '
                         'height and width')
    return tuple(input_shape)


class MacsModel:
    """MACs as a cost model.

    Attributes:
        unit (str): Unit of the costs.
    """

    unit = 'MACs'

    def block(self, spec: BlockSpec, in_size: Size,
              placement: Optional[Placement] = None) -> int:
        """Cost of a block whose input is ``in_size``, ``(H, W)``."""
        return sum(block_macs(
            spec, in_size, placement.stride if placement else None).values())

    def network(self,
                arch: ArchSpec,
                input_shape: Size,
                num_classes: Optional[int] = 1000,
                with_head: bool = True,
                in_channels: int = 3,
                output_stride: int = 32) -> int:
        """Cost of a whole network; arguments as for :func:`count_macs`."""
        return count_macs(arch, input_shape, num_classes, with_head, in_channels,
                          output_stride).total


class ParamsModel:
    """Number of parameters as a cost model.

    Weights and biases of batch normalisation count, its running statistics do not.

    Attributes:
        unit (str): Unit of the costs.
    """

    unit = 'parameters'

    def block(self, spec: BlockSpec, in_size: Size = (1, 1),
              placement: Optional[Placement] = None) -> int:
        """Parameters of a block; they depend neither on size nor on placement."""
        mid, out, hidden = spec.mid_channels, spec.out_channels, spec.se_channels
        total = mid * (spec.kernel_size**2 + 2) + out * (mid + 2)
        if spec.with_expand:
            total += mid * (spec.in_channels + 2)
        if hidden:
            total += 2 * mid * hidden + mid + hidden
        if spec.nl_channels:
            total += out * (9 + 2)
        return total

    def network(self,
                arch: ArchSpec,
                input_shape: Size = (1, 1),
                num_classes: Optional[int] = 1000,
                with_head: bool = True,
                in_channels: int = 3,
                output_stride: int = 32) -> int:
        """Parameters of a whole network; arguments as for :func:`count_macs`."""
        total = arch.stem_channels * (9 * in_channels + 2)
        total += sum(self.block(block) for block in arch.blocks)
        if with_head:
            total += arch.head_channels * (arch.blocks[-1].out_channels + 2)
            if num_classes is not None:
                total += num_classes * (arch.head_channels + 1)
        return total


# Settings of layers that change their times
TIMED = ('conv_cfg', 'act_cfg', 'se_act_cfg')


class LatencyTable:
    """Latency of blocks, measured on one machine, as a cost model.

    ``tools/analysis_tools/measure_latency.py`` writes such tables. The latency
    of a network is estimated as the sum of its parts.

    Args:
        entries (dict[str, float]): Milliseconds by key, see
            :meth:`block_key`, :meth:`stem_key` and :meth:`head_key`.
        source (str): Name of the table in error messages. Defaults to
            ``'latency table'``.
        cfgs (dict, optional): Settings of the measured layers, see :data:`TIMED`.
            Defaults to None, unknown.

    Raises:
        ValueError: If an entry is not a positive number.
    """

    unit = 'ms'

    def __init__(self,
                 entries: Dict[str, float],
                 source: str = 'latency table',
                 cfgs: Optional[dict] = None):
        for key, value in entries.items():
            if (not isinstance(value, (int, float)) or isinstance(value, bool)
                    or not 0 < value < float('inf')):
                raise ValueError(f'{source}: {key!r} is {value!r}, expected '
                                 'a positive number of milliseconds')
        self.entries = dict(entries)
        self.source = source
        self.cfgs = cfgs

    @classmethod
    def from_file(cls, path: Union[str, PathLike]) -> 'LatencyTable':
        """Read the JSON that ``measure_latency.py`` writes.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a table.
        """
        table = read_json(path)
        check_json(table, {'latency_ms': {str: float}, 'cfgs?': {str: object},
                           str: object},
                   f'{path} is not a latency table',
                   'give the JSON that tools/analysis_tools/measure_latency.py writes')
        return cls(table['latency_ms'], str(path), table.get('cfgs'))

    def check_layers(self, cfgs: Mapping[str, Optional[dict]]) -> None:
        """Refuse layers whose times the table does not have.

        Args:
            cfgs (Mapping[str, dict | None]): ``cfgs`` of a backbone.

        Raises:
            ValueError: If a setting that changes times differs.
        """
        for name in TIMED if self.cfgs else ():
            own = cfgs[name] and dict(cfgs[name], type=type_name(cfgs[name]))
            if self.cfgs.get(name) != own:
                raise ValueError(
                    f'{self.source} was measured with {name}={self.cfgs.get(name)}, '
                    f'but the network has {own}: measure it again')

    @staticmethod
    def block_key(spec: BlockSpec, in_size: Size,
                  placement: Optional[Placement] = None) -> str:
        """Key of a block whose input is ``in_size``, ``(H, W)``."""
        key = f'{in_size[0]}x{in_size[1]} {spec.to_text()}'
        if spec.nl_ratio and spec.normalize == 'rms':
            key += ' scale-rms'
        if placement not in (None, Placement(spec.stride)):
            key += ' stride{}-dilation{}-{}'.format(*placement)
        return key

    @staticmethod
    def stem_key(arch: ArchSpec, input_shape: Size, in_channels: int = 3) -> str:
        """Key of the stem for an image of ``input_shape``, ``(H, W)``."""
        key = f'{input_shape[0]}x{input_shape[1]} stem{arch.stem_channels}'
        return key if in_channels == 3 else f'{key} in{in_channels}'

    @staticmethod
    def head_key(arch: ArchSpec, in_size: Size) -> str:
        """Key of the head convolution with input ``in_size``, ``(H, W)``."""
        return (f'{in_size[0]}x{in_size[1]} '
                f'head{arch.blocks[-1].out_channels}-{arch.head_channels}')

    def _lookup(self, key: str) -> float:
        if key not in self.entries:
            raise ValueError(
                f'{self.source} has no entry {key!r}: measure it again for '
                'this search space and input shape with '
                'tools/analysis_tools/measure_latency.py')
        return self.entries[key]

    def block(self, spec: BlockSpec, in_size: Size,
              placement: Optional[Placement] = None) -> float:
        """Cost of a block whose input is ``in_size``, ``(H, W)``.

        Raises:
            ValueError: If the table lacks it.
        """
        return self._lookup(self.block_key(spec, in_size, placement))

    def network(self,
                arch: ArchSpec,
                input_shape: Size,
                num_classes: Optional[int] = None,
                with_head: bool = True,
                in_channels: int = 3,
                output_stride: int = 32) -> float:
        """Cost of a whole backbone; the classifier is not in the table.

        Args:
            arch (ArchSpec): The network.
            input_shape (tuple[int, int]): ``(H, W)`` of the input image.
            num_classes (int, optional): Not used: the classifier is the same
                for all networks and costs very little. Defaults to None.
            with_head (bool): Whether the head convolution is built. Defaults
                to True.
            in_channels (int): Channels of the image. Defaults to 3.
            output_stride (int): As for AutoNL. Defaults to 32.

        Raises:
            ValueError: If the table lacks a part.
        """
        total = self._lookup(self.stem_key(arch, input_shape, in_channels))
        size = input_shape
        for (_, block, in_size), placement in zip(
                iter_blocks(arch, input_shape, output_stride),
                arch.placements(output_stride)):
            total += self.block(block, in_size, placement)
            size = strided(in_size, placement.stride)
        if with_head:
            total += self._lookup(self.head_key(arch, size))
        return total


CostModel = Union[MacsModel, ParamsModel, LatencyTable]

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Search spaces: a macro-structure and the choices of its blocks."""
import itertools
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from autonl_mm.arch import ArchSpec, BlockSpec, check_normalize

# A subnet of a space: for each block the index of the option of each decision
Subnet = List[Tuple[int, ...]]

# A block's decisions in the order of its cost table. Options are in order from the
# smallest to the largest, each option contained in the next.
DECISIONS = ('expand_ratio', 'kernel_size', 'se_ratio', 'nl', 'nl_ratio',
             'nl_stride')

# How subnets are sampled: all choices, or all networks, are equally probable. A choice
# that leaves out a block says nothing else, so it has as many forms as all choices of a
# block that stays, and is sampled more often by choices than by networks.
SAMPLINGS = ('choices', 'networks')

# MnasNet's macro-structure with the paper's choices (section 4.1).
_CHOICES = dict(
    kernel_size=(3, 5),
    expand_ratio=(0, 3, 6),
    se_ratio=(0, 0.25, 0.5),
    nl_ratio=(0, 0.125, 0.25),
    nl_stride=(2, 1))
MNASNET_SPACE = dict(
    stem_channels=32,
    head_channels=1280,
    stages=[
        dict(
            channels=16,
            depth=1,
            stride=1,
            kernel_size=3,
            expand_ratio=1,
            se_ratio=0,
            nl_ratio=0),
        dict(channels=24, depth=4, stride=2),
        dict(channels=40, depth=4, stride=2),
        dict(channels=80, depth=4, stride=2),
        dict(channels=96, depth=4, stride=1),
        dict(channels=192, depth=4, stride=2),
        dict(channels=320, depth=1, stride=1),
    ])


@dataclass(frozen=True)
class BlockSpace:
    """The choices of one block, options from the smallest to the largest.

    Args:
        in_channels (int): Input channels.
        out_channels (int): Output channels.
        stride (int): Stride of the depthwise convolution.
        expand_ratio (tuple[float, ...]): Expand ratios; 0 leaves the block out.
        kernel_size (tuple[int, ...]): Kernel sizes of the depthwise convolution.
        se_ratio (tuple[float, ...]): Ratios of squeeze-excite; 0 leaves it out.
        nl (tuple[bool, ...]): Whether there is LightNL.
        nl_ratio (tuple[float, ...]): Channel ratios of LightNL.
        nl_stride (tuple[int, ...]): Strides of LightNL, falling.
        normalize (str): Normalisation of LightNL, ``'rms'`` or ``'size'``, for all
            choices. Defaults to ``'rms'``.
    """
    in_channels: int
    out_channels: int
    stride: int
    expand_ratio: Tuple[float, ...]
    kernel_size: Tuple[int, ...]
    se_ratio: Tuple[float, ...]
    nl: Tuple[bool, ...]
    nl_ratio: Tuple[float, ...]
    nl_stride: Tuple[int, ...]
    normalize: str = 'rms'

    @property
    def options(self) -> Dict[str, Tuple]:
        """From a decision's name to its options."""
        return {name: getattr(self, name) for name in DECISIONS}

    @property
    def shape(self) -> Tuple[int, ...]:
        """Number of options of each decision."""
        return tuple(len(x) for x in self.options.values())

    @property
    def skippable(self) -> bool:
        """Whether the block may be left out."""
        return self.expand_ratio[0] == 0

    def spec(self, choice: Sequence[int]) -> Optional[BlockSpec]:
        """The spec of a choice.

        Args:
            choice (Sequence[int]): Index of the option of each decision.

        Returns:
            BlockSpec | None: None if the block is left out.
        """
        option = {
            name: options[i]
            for (name, options), i in zip(self.options.items(), choice)
        }
        if option['expand_ratio'] == 0:
            return None
        nl = option.pop('nl')
        if not nl:
            option.update(nl_ratio=0.0, nl_stride=1)
        return BlockSpec(self.in_channels, self.out_channels, self.stride,
                         normalize=self.normalize, **option)

    @property
    def largest(self) -> BlockSpec:
        """The spec of the largest block, which contains all blocks of the space."""
        return self.spec([n - 1 for n in self.shape])

    def choices(self) -> Iterator[Tuple[int, ...]]:
        """Every choice; several choices may make the same block, or no block."""
        return itertools.product(*(range(n) for n in self.shape))

    def forms(self) -> List[Tuple[int, ...]]:
        """The first choice of every different block, and of no block."""
        first: Dict[Optional[BlockSpec], Tuple[int, ...]] = {}
        for choice in self.choices():
            first.setdefault(self.spec(choice), choice)
        return list(first.values())


@dataclass(frozen=True)
class SearchSpace:
    """A macro-structure with the choices of its blocks.

    Args:
        stages (tuple[tuple[BlockSpace, ...], ...]): The blocks by stage.
        stem_channels (int): Output channels of the stem.
        head_channels (int): Output channels of the head convolution.
    """
    stages: Tuple[Tuple[BlockSpace, ...], ...]
    stem_channels: int
    head_channels: int

    @classmethod
    def from_config(cls, config: Union[str, Mapping],
                    normalize: str = 'rms') -> 'SearchSpace':
        """Read a space.

        Args:
            config (str | Mapping): ``'mnasnet'``, the paper's space, or
                ``dict(stem_channels, head_channels, stages)``. A stage has
                ``channels``, ``depth``, ``stride`` and, if they differ from the
                paper's space, the options of ``kernel_size``, ``expand_ratio`` (0
                leaves a block out, but never a stage's first block), ``se_ratio``,
                ``nl_ratio`` (0 for no LightNL) and ``nl_stride``. A single number is
                fixed.
            normalize (str): Normalisation of every LightNL, ``'rms'`` or ``'size'``. It
                is not searched. Defaults to ``'rms'``.

        Raises:
            ValueError: If the space is invalid, or has nothing to choose.
        """
        if isinstance(config, str):
            if config != 'mnasnet':
                raise ValueError(f"space is {config!r}, expected 'mnasnet' or "
                                 'a dict with stem_channels, head_channels '
                                 'and stages')
            config = MNASNET_SPACE
        unknown = set(config) - set(MNASNET_SPACE)
        if unknown or not config.get('stages'):
            raise ValueError(
                f'space has the keys {sorted(config)}, expected '
                f'{sorted(MNASNET_SPACE)}, with at least one stage')
        check_normalize(normalize)
        stem_channels = config.get('stem_channels', 32)
        channels = stem_channels
        stages = []
        for i, stage in enumerate(config['stages'], 1):
            name = f'stage {i} of the space'
            stages.append(_read_stage(name, stage, channels, i == 1, normalize))
            channels = stage['channels']
        space = cls(
            tuple(stages), stem_channels, config.get('head_channels', 1280))
        if all(n == 1 for block in space.blocks for n in block.shape):
            raise ValueError(
                'the space has no choices, every option is fixed: give a '
                'stage more than one kernel_size, expand_ratio, se_ratio, '
                'nl_ratio or nl_stride, or train an AutoNL')
        return space

    @property
    def blocks(self) -> Tuple[BlockSpace, ...]:
        """All blocks in order."""
        return tuple(block for stage in self.stages for block in stage)

    def has(self, subnet: Subnet) -> bool:
        """Whether lists of integers are a subnet of this space.

        Args:
            subnet (Sequence[Sequence[int]]): Any lists of integers.
        """
        return len(subnet) == len(self.blocks) and all(
            len(choice) == len(block.shape)
            and all(0 <= i < n for i, n in zip(choice, block.shape))
            for choice, block in zip(subnet, self.blocks))

    def is_packed(self, subnet: Subnet) -> bool:
        """Whether blocks that are left out come last among equal blocks of a stage.

        In another order they make the same network.

        Args:
            subnet (Subnet): A subnet of this space.
        """
        blocks, specs = self.blocks, self.specs(subnet)
        return not any(
            blocks[i] == blocks[i + 1] and specs[i] is None and specs[i + 1] is not None
            for i in range(len(blocks) - 1))

    def specs(self, subnet: Subnet) -> Tuple[Optional[BlockSpec], ...]:
        """The blocks of a subnet, None for a block that is left out.

        Args:
            subnet (Subnet): For each of ``blocks`` a choice, see
                :meth:`BlockSpace.spec`.
        """
        return tuple(b.spec(c) for b, c in zip(self.blocks, subnet))

    def arch(self, subnet: Subnet) -> ArchSpec:
        """The spec of a subnet.

        Args:
            subnet (Subnet): As for :meth:`specs`.
        """
        return ArchSpec(
            tuple(s for s in self.specs(subnet) if s is not None), self.stem_channels,
            self.head_channels)

    @property
    def largest(self) -> ArchSpec:
        """The spec of the largest subnet, which contains all subnets."""
        return ArchSpec(
            tuple(b.largest for b in self.blocks), self.stem_channels,
            self.head_channels)


def _read_stage(name: str, stage: Mapping, in_channels: int,
                first: bool, normalize: str) -> Tuple[BlockSpace, ...]:
    required = ('channels', 'depth', 'stride')
    missing = [key for key in required if key not in stage]
    unknown = sorted(set(stage) - set(required) - set(_CHOICES))
    if missing or unknown:
        raise ValueError(
            f'{name} lacks {missing} and has unknown {unknown}, expected '
            f'{list(required)} and any of {list(_CHOICES)}')
    channels, depth, stride = (stage[key] for key in required)
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f'{name}: depth is {depth!r}, expected at least 1')
    if not first and stride == 1 and channels == in_channels:
        raise ValueError(
            f'{name} has the width of the stage before and stride 1, so both '
            'are one stage: give the stage before more depth')
    options = {}
    for key, default in _CHOICES.items():
        value = stage.get(key, default)
        value = value if isinstance(value, Sequence) else (value, )
        if not value or len(set(value)) < len(value):
            raise ValueError(f'{name}: {key} is {value!r}, expected options '
                             'that differ')
        options[key] = tuple(sorted(value, reverse=key == 'nl_stride'))
    for coarse, fine in zip(options['nl_stride'], options['nl_stride'][1:]):
        if fine < 1 or coarse % fine:
            raise ValueError(
                f'{name}: nl_stride {coarse} is no multiple of {fine}, but '
                'each stride must sample positions of the next stride')
    expand = options['expand_ratio']
    if 1 in expand and expand != (1, ):
        raise ValueError(
            f'{name}: expand_ratio {expand} has 1 beside other ratios, but a '
            'block of ratio 1 has no expand convolution: fix expand_ratio to 1 or '
            'leave 1 out')
    if expand == (0, ):
        raise ValueError(f'{name}: expand_ratio 0 alone leaves every block '
                         'out')
    nl_ratio = tuple(r for r in options['nl_ratio'] if r)
    options['nl'] = ((False, ) if 0 in options['nl_ratio'] else
                     ()) + ((True, ) if nl_ratio else ())
    # without LightNL its ratio and stride mean nothing
    options['nl_ratio'] = nl_ratio or (0.25, )
    if not nl_ratio:
        options['nl_stride'] = (1, )
    blocks = []
    for i in range(depth):
        own = dict(options)
        if i == 0:
            own['expand_ratio'] = tuple(e for e in expand if e)
        block = BlockSpace(in_channels if i == 0 else channels, channels,
                           stride if i == 0 else 1, normalize=normalize, **own)
        _check_block(f'{name}, block {i}', block)
        blocks.append(block)
    return tuple(blocks)


def _check_block(name: str, block: BlockSpace) -> None:
    """Check that every option makes a valid block, and that all blocks differ."""
    for d, decision in enumerate(DECISIONS):
        widths = {}
        for i, option in enumerate(block.options[decision]):
            choice = [n - 1 for n in block.shape]
            choice[d] = i
            try:
                spec = block.spec(choice)
            except ValueError as e:
                raise ValueError(f'{name}: {e}') from None
            width = spec and (spec.mid_channels, spec.kernel_size,
                              spec.se_channels, spec.nl_channels,
                              spec.nl_stride)
            if width in widths:
                raise ValueError(
                    f'{name}: {decision} {widths[width]} and {option} make '
                    f'the same block of {block.in_channels} to '
                    f'{block.out_channels} channels: leave one out')
            widths[width] = option

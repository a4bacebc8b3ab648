# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Specs of networks, and the authors' text notation for them. No torch here.

The notation has one block per line, with tokens joined by ``_`` in any order::

    r1_k5_s22_e6_i24_o40_se0.25_nonlocal0.25-1

======================  ====================================================
token                   meaning
======================  ====================================================
``r<n>``                repeats; repeats after the first have stride 1
``k<n>``                depthwise kernel, odd
``s<n><n>``             stride, two equal digits, 1 or 2
``e<x>``                expand ratio
``i<n>``, ``o<n>``      input and output channels
``a1``, ``p1``          kernels of the expand and project convolutions (only 1)
``se<x>``               SE ratio in (0, 1], of the block's input channels
``nonlocal<x>-<n>``     LightNL's channel ratio in (0, 1] and stride; without
                        ``-<n>`` stride 1, bare ``nonlocal`` is ratio 1.0
``noskip``              no identity add
``sw``                  swish, which AutoNL uses everywhere
======================  ====================================================

``r``, ``k``, ``s``, ``e``, ``i`` and ``o`` are required. Empty lines and
everything after ``#`` are ignored. Two things that the authors' notation cannot
describe have lines of their own here: ``head<n>`` gives the channels of the head
if they are not 1280, and ``scale-rms`` says that the network's LightNLs divide
their ``y`` by its root mean square instead of by the size of the feature map.
"""
import os.path as osp
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from os import PathLike
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs.text_files import read_text

HEAD_CHANNELS = 1280
# No network is deeper; a typing error must not fill the memory.
MAX_BLOCKS = 1000
# The notation allows six digits before the decimal point; so does a spec.
LIMIT = 10**6
# Divisor of LightNL's product, and the words for it in files: the size of the
# feature map, as in the paper, or the product's root mean square in each image.
NORMALIZE = dict(size='paper', rms='rms')


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block.

    Args:
        in_channels (int): Channels in.
        out_channels (int): Channels out.
        stride (int): Stride of the depthwise convolution, 1 or 2.
        kernel_size (int): Odd kernel size of the depthwise convolution.
        expand_ratio (float): Hidden width over ``in_channels``; at 1 the
            block has no expand convolution.
        se_ratio (float): Hidden units of squeeze-excite over
            ``in_channels``; 0 for none. Defaults to 0.
        nl_ratio (float): Channel ratio of LightNL; 0 for none. Defaults to 0.
        nl_stride (int): Spatial stride of LightNL. Without LightNL it has no
            meaning and is set to 1, so that equal networks compare equal.
            Defaults to 1.
        skip (bool): Whether the block may add its input, which it does where
            stride and channels allow. Defaults to True.
        normalize (str): Divisor of LightNL's product: ``'rms'``, the product's root
            mean square, or ``'size'``, the size of the feature map, as in the paper;
            see :func:`autonl_mm.models.light_nl`. Without LightNL it is set to
            ``'rms'``, as ``nl_stride`` is to 1. Defaults to ``'rms'``.

    Raises:
        ValueError: If a value is out of range; names field and value.
    """
    in_channels: int
    out_channels: int
    stride: int
    kernel_size: int
    expand_ratio: float
    se_ratio: float = 0.0
    nl_ratio: float = 0.0
    nl_stride: int = 1
    skip: bool = True
    normalize: str = 'rms'

    def __post_init__(self) -> None:
        for name in ('in_channels', 'out_channels', 'nl_stride'):
            _check_positive_int(name, getattr(self, name))
        if not _is_int(self.stride) or self.stride not in (1, 2):
            raise ValueError(f'stride is {self.stride!r}, expected 1 or 2')
        _check_positive_int('kernel_size', self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise ValueError(f'kernel_size is {self.kernel_size!r}, '
                             'expected an odd positive integer')
        if not _is_number(self.expand_ratio) or self.expand_ratio <= 0:
            raise ValueError(f'expand_ratio is {self.expand_ratio!r}, '
                             f'expected a number above 0 and below {LIMIT}')
        if self.mid_channels < 1:
            raise ValueError(
                f'expand_ratio {self.expand_ratio!r} of {self.in_channels} '
                'channels leaves no hidden channel, expected at least one')
        for name in ('se_ratio', 'nl_ratio'):
            ratio = getattr(self, name)
            if not _is_number(ratio) or not 0 <= ratio <= 1:
                raise ValueError(f'{name} is {ratio!r}, expected a ratio in '
                                 '(0, 1], or 0 for none')
        if not isinstance(self.skip, bool):
            raise ValueError(f'skip is {self.skip!r}, expected True or False')
        check_normalize(self.normalize)
        if not self.nl_ratio:
            object.__setattr__(self, 'nl_stride', 1)
            object.__setattr__(self, 'normalize', 'rms')
        elif self.nl_channels < 1:
            raise ValueError(
                f'nl_ratio {self.nl_ratio!r} of {self.out_channels} channels '
                'leaves no channel, expected at least '
                f'{1 / self.out_channels:.4g}')

    @property
    def mid_channels(self) -> int:
        """Hidden width, after the expand convolution."""
        return int(self.in_channels * self.expand_ratio)

    @property
    def se_channels(self) -> int:
        """Hidden units of squeeze-excite, 0 for none."""
        if not self.se_ratio:
            return 0
        return max(1, round(self.in_channels * self.se_ratio))

    @property
    def nl_channels(self) -> int:
        """Channels of LightNL's compact features, 0 for none."""
        return int(self.out_channels * self.nl_ratio)

    @property
    def with_expand(self) -> bool:
        """Whether the block has an expand convolution."""
        return self.expand_ratio != 1

    @property
    def with_identity(self) -> bool:
        """Whether the block adds its input."""
        return (self.skip and self.stride == 1
                and self.in_channels == self.out_channels)

    def to_text(self) -> str:
        """The block's line of the notation, which does not have ``normalize``."""
        tokens = [
            'r1', f'k{self.kernel_size}', f's{self.stride}{self.stride}',
            f'e{_format(self.expand_ratio)}', f'i{self.in_channels}',
            f'o{self.out_channels}'
        ]
        if self.se_ratio:
            tokens.append(f'se{_format(self.se_ratio)}')
        if self.nl_ratio:
            tokens.append(
                f'nonlocal{_format(self.nl_ratio)}-{self.nl_stride}')
        if not self.skip:
            tokens.append('noskip')
        return '_'.join(tokens)


class Placement(NamedTuple):
    """How AutoNL builds a block for an ``output_stride``.

    Args:
        stride (int): Stride of the block.
        dilation (int): Dilation of its depthwise convolution. Defaults to 1.
        nl_dilation (int): Dilation of LightNL's depthwise convolution. Defaults to 1.
    """
    stride: int
    dilation: int = 1
    nl_dilation: int = 1


@dataclass(frozen=True)
class ArchSpec:
    """A network: stem, blocks, head.

    Args:
        blocks (Sequence[BlockSpec]): The blocks; the input channels of each
            are the output channels of the one before.
        stem_channels (int): Output channels of the 3x3 stride-2 stem.
            Defaults to 32.
        head_channels (int): Output channels of the 1x1 head convolution.
            Defaults to 1280.

    Raises:
        ValueError: If there are no blocks, their channels do not fit, or their
            LightNLs differ in ``normalize``.
    """
    blocks: Tuple[BlockSpec, ...]
    stem_channels: int = 32
    head_channels: int = HEAD_CHANNELS

    def __post_init__(self) -> None:
        object.__setattr__(self, 'blocks', tuple(self.blocks))
        if not 1 <= len(self.blocks) <= MAX_BLOCKS:
            raise ValueError('an ArchSpec needs at least one block and at most '
                             f'{MAX_BLOCKS}, got {len(self.blocks) or "none"}')
        _check_positive_int('stem_channels', self.stem_channels)
        _check_positive_int('head_channels', self.head_channels)
        channels, source = self.stem_channels, 'the stem'
        for i, block in enumerate(self.blocks):
            if not isinstance(block, BlockSpec):
                raise ValueError(f'blocks[{i}] is {block!r}, '
                                 'expected a BlockSpec')
            if block.in_channels != channels:
                raise ValueError(
                    f'blocks[{i}] takes {block.in_channels} channels but '
                    f'{source} gives {channels}; they must be equal')
            channels, source = block.out_channels, f'blocks[{i}]'
        found = {b.normalize: i for i, b in enumerate(self.blocks) if b.nl_ratio}
        if len(found) > 1:
            raise ValueError(
                'LightNLs of a network have one normalize, but ' + ' and '.join(
                    f'blocks[{i}] has {value!r}' for value, i in found.items()))

    @property
    def stages(self) -> Tuple[Tuple[BlockSpec, ...], ...]:
        """Blocks by stage: a stage starts at stride 2 or a change of width."""
        stages: List[List[BlockSpec]] = []
        for block in self.blocks:
            if (not stages or block.stride == 2
                    or block.in_channels != block.out_channels):
                stages.append([])
            stages[-1].append(block)
        return tuple(tuple(stage) for stage in stages)

    def placements(self, output_stride: int = 32) -> Tuple[Placement, ...]:
        """For each block how it is built for an output stride.

        Where ``output_stride`` is reached, a block keeps its resolution, and all
        layers after its depthwise convolution are dilated instead. Every kernel then
        sees the same pixels as in the network it was trained in.

        Args:
            output_stride (int): 32, 16 or 8. Defaults to 32.

        Raises:
            ValueError: If it is another number.
        """
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride is {output_stride}, expected 8, 16 or 32')
        placements, total, dilation = [], 2, 1
        for block in self.blocks:
            stride, before = block.stride, dilation
            if total * stride > output_stride:
                stride = 1
                dilation *= block.stride
            total *= stride
            placements.append(Placement(stride, before, dilation))
        return tuple(placements)

    @property
    def normalize(self) -> Optional[str]:
        """Divisor of LightNL's product; None for a network without LightNL."""
        return next((b.normalize for b in self.blocks if b.nl_ratio), None)

    def with_normalize(self, normalize: str) -> 'ArchSpec':
        """The same network with LightNLs that divide by ``'rms'`` or ``'size'``.

        ``AUTONL_S.with_normalize('size')`` is the paper's AutoNL-S.
        """
        return replace(
            self, blocks=tuple(replace(b, normalize=normalize) for b in self.blocks))

    def without_light_nl(self) -> 'ArchSpec':
        """The same network with no LightNL in any block."""
        return replace(
            self,
            blocks=tuple(replace(b, nl_ratio=0.0) for b in self.blocks))

    def with_light_nl(self,
                      ratio: float = 0.25,
                      stride: int = 1,
                      blocks: Optional[Sequence[int]] = None) -> 'ArchSpec':
        """The same network with LightNL in blocks.

        Args:
            ratio (float): Its channel ratio. Defaults to 0.25.
            stride (int): Its stride. Defaults to 1.
            blocks (Sequence[int], optional): Indices in ``self.blocks``; all other
                blocks stay as they are. Defaults to None, all blocks.

        Raises:
            IndexError, ValueError: If an index or a value is out of range.
        """
        changed = list(self.blocks)
        for i in range(len(changed)) if blocks is None else blocks:
            changed[i] = replace(changed[i], nl_ratio=ratio, nl_stride=stride,
                                 normalize=self.normalize or 'rms')
        return replace(self, blocks=tuple(changed))

    @classmethod
    def from_text(cls, text: str, normalize: str = 'size') -> 'ArchSpec':
        """Parse the authors' notation.

        Args:
            text (str): One block per line, see the module's docstring.
            normalize (str): Divisor of LightNL's product if the text has no line for
                it. Defaults to ``'size'``, as in the authors' networks.

        Raises:
            ValueError: If the text is malformed; names the line, the token
                and what was expected.
        """
        blocks: List[BlockSpec] = []
        head_channels = scale = None
        check_normalize(normalize)
        for number, line in enumerate(text.lstrip('\ufeff').splitlines(), 1):
            line = line.split('#', 1)[0].strip()
            if not line:
                continue
            try:
                if re.match(r'head\d', line):
                    if head_channels is not None:
                        raise ValueError(f'token {_quote(line)}: the head was given '
                                         'before, expected it once')
                    head_channels = _parse_positive_int(line, line[4:])
                    continue
                if line.startswith('scale'):
                    if scale is not None:
                        raise ValueError(f'token {_quote(line)}: the scale was given '
                                         'before, expected it once')
                    scale = _parse_scale(line)
                    continue
                for block in _parse_block(line):
                    if blocks and blocks[-1].out_channels != block.in_channels:
                        raise ValueError(
                            f"token 'i{block.in_channels}': expected "
                            f'i{blocks[-1].out_channels}, the channels that '
                            'the block before gives')
                    blocks.append(block)
                if len(blocks) > MAX_BLOCKS:
                    raise ValueError(f'{len(blocks)} blocks up to here, expected '
                                     f'at most {MAX_BLOCKS} in a network')
            except ValueError as e:
                raise ValueError(f'line {number} ({_quote(line)}): {e}') from None
        if not blocks:
            raise ValueError('no block found: expected one block per line, such '
                             "as 'r1_k3_s11_e1_i32_o16'")
        return cls(
            tuple(blocks), blocks[0].in_channels,
            HEAD_CHANNELS if head_channels is None else head_channels
        ).with_normalize(scale or normalize)

    @classmethod
    def from_file(cls, path: Union[str, PathLike],
                  normalize: str = 'size') -> 'ArchSpec':
        """Parse a notation file.

        Args:
            path (str | PathLike): The file.
            normalize (str): As for :meth:`from_text`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: As :meth:`from_text`, with the file's name.
        """
        try:
            text = read_text(path)
        except ValueError as e:
            raise ValueError(f'{e}: expected blocks in the notation, one per '
                             'line') from None
        try:
            return cls.from_text(text, normalize)
        except ValueError as e:
            raise ValueError(f'{path}: {e}') from None

    def to_text(self) -> str:
        """The network in the notation; ``from_text`` reads back an equal spec."""
        lines = [block.to_text() for block in self.blocks]
        if self.head_channels != HEAD_CHANNELS:
            lines.append(f'head{self.head_channels}')
        if self.normalize == 'rms':
            lines.append('scale-rms')
        return '\n'.join(lines) + '\n'


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and abs(value) < LIMIT)  # false for nan too


def _check_positive_int(name: str, value) -> None:
    if not _is_int(value) or not 0 < value < LIMIT:
        raise ValueError(f'{name} is {value!r}, expected a positive integer '
                         f'below {LIMIT}')


def check_normalize(normalize: str) -> None:
    """Check the divisor of LightNL's product.

    Raises:
        ValueError: If it is not one of :data:`NORMALIZE`; names it.
    """
    if normalize not in tuple(NORMALIZE):  # it may be unhashable
        raise ValueError(f'normalize is {normalize!r}, expected one of '
                         f'{tuple(NORMALIZE)}')


def _quote(text: str) -> str:
    """Text as messages have it: the lines of a broken file may be of any length."""
    quoted = repr(text)
    return quoted if len(quoted) <= 100 else f'{quoted[:80]}...'


def _parse_scale(token: str) -> str:
    for normalize, word in NORMALIZE.items():
        if token == f'scale-{word}':
            return normalize
    raise ValueError(f'token {_quote(token)}: expected scale-paper or scale-rms')


def _parse_positive_int(token: str, digits: str) -> int:
    # [0-9], not \d or int() alone: those also accept '+3', '1_0' and the
    # digits of other scripts. No width or count has more than 6 digits.
    if not re.fullmatch('[0-9]{1,6}', digits) or int(digits) < 1:
        raise ValueError(f'token {_quote(token)}: expected a positive integer, '
                         f'got {_quote(digits)}')
    return int(digits)


def _parse_number(token: str, digits: str) -> float:
    if not re.fullmatch(r'[0-9]{1,6}(\.[0-9]+)?', digits):
        raise ValueError(f'token {_quote(token)}: expected a number such as 6 or '
                         f'0.25, got {_quote(digits)}')
    return float(digits)


def _parse_ratio(token: str, digits: str) -> float:
    ratio = _parse_number(token, digits)
    if not 0 < ratio <= 1:
        raise ValueError(f'token {_quote(token)}: expected a ratio in (0, 1], '
                         f'got {digits}')
    return ratio


# Longest names first: 'sw' and 'se' start as 's' does, 'noskip' as 'nonlocal'.
_TOKEN = re.compile('(nonlocal|noskip|se|sw|[rksieoap])(.*)', re.DOTALL)
_REQUIRED = dict(
    r='repeats', k='kernel', s='stride', e='expand ratio', i='input channels',
    o='output channels')


def _parse_block(line: str) -> Iterator[BlockSpec]:
    """Yield the BlockSpecs of one line, one per repeat."""
    tokens: Dict[str, str] = {}
    fields: Dict[str, object] = {}
    for token in line.split('_'):
        match = _TOKEN.fullmatch(token)
        if not match:
            raise ValueError(
                f'unknown token {_quote(token)}, expected r, k, s, e, i, o, a, p, '
                'se, nonlocal with their values, noskip or sw')
        name, value = match.groups()
        if name in tokens:
            raise ValueError(f'token {_quote(token)}: {name!r} was given before as '
                             f'{_quote(tokens[name])}, expected it once')
        tokens[name] = token
        if name in ('r', 'i', 'o'):
            fields[name] = _parse_positive_int(token, value)
            if name == 'r' and fields[name] > MAX_BLOCKS:
                raise ValueError(f'token {_quote(token)}: expected at most '
                                 f'{MAX_BLOCKS} repeats')
        elif name == 'k':
            fields[name] = _parse_positive_int(token, value)
            if fields[name] % 2 == 0:
                raise ValueError(f'token {_quote(token)}: expected an odd kernel, '
                                 f'got {value}')
        elif name == 's':
            if value not in ('11', '22'):
                raise ValueError(f'token {_quote(token)}: expected two equal stride '
                                 f'digits, s11 or s22')
            fields[name] = int(value[0])
        elif name == 'e':
            fields[name] = _parse_number(token, value)
        elif name in ('a', 'p'):
            if value != '1':
                raise ValueError(f'token {_quote(token)}: expected {name}1, AutoNL '
                                 'has only 1x1 expand and project convolutions')
        elif name == 'se':
            fields[name] = _parse_ratio(token, value)
        elif name == 'nonlocal':
            ratio, dash, stride = value.partition('-')
            fields[name] = _parse_ratio(token, ratio) if value else 1.0
            fields['nl_stride'] = (
                _parse_positive_int(token, stride) if dash else 1)
        elif value:  # noskip, sw
            raise ValueError(f'token {_quote(token)}: expected {name!r} without a '
                             'value')
    for name, meaning in _REQUIRED.items():
        if name not in fields:
            raise ValueError(f'token {name!r} ({meaning}) is missing, '
                             f"expected all of {', '.join(_REQUIRED)}")
    try:
        block = BlockSpec(
            in_channels=fields['i'],
            out_channels=fields['o'],
            stride=fields['s'],
            kernel_size=fields['k'],
            expand_ratio=_as_int_if_whole(fields['e']),
            se_ratio=fields.get('se', 0.0),
            nl_ratio=fields.get('nonlocal', 0.0),
            nl_stride=fields.get('nl_stride', 1),
            skip='noskip' not in tokens)
        repeat = block
        if fields['r'] > 1:
            repeat = replace(block, in_channels=block.out_channels, stride=1)
    except ValueError as e:
        # after the checks above, only these two can leave no channel
        name = 'nonlocal' if str(e).startswith('nl_ratio') else 'e'
        raise ValueError(f'token {_quote(tokens[name])}: {e}') from None
    yield block
    for _ in range(fields['r'] - 1):
        yield repeat


def _as_int_if_whole(value: float) -> float:
    return int(value) if value == int(value) else value


def _format(value: float) -> str:
    # Positional digits that read back as the same float. An exponent's minus
    # sign would be read as the dash before LightNL's stride.
    text = format(Decimal(repr(float(value))), 'f')
    return text.rstrip('0').rstrip('.')


AUTONL_S = ArchSpec.from_text("""\
r1_k3_s11_e1_i32_o16
r1_k3_s22_e3_i16_o24_nonlocal0.25-1
r1_k3_s11_e3_i24_o24
r1_k5_s22_e3_i24_o40_nonlocal0.25-1
r1_k3_s11_e3_i40_o40_nonlocal0.25-2
r1_k3_s11_e3_i40_o40
r1_k5_s22_e6_i40_o80_se0.25_nonlocal0.25-1
r2_k3_s11_e3_i80_o80_se0.5
r1_k5_s11_e6_i80_o96_se0.25_nonlocal0.25-1
r3_k3_s11_e3_i96_o96_se0.5
r1_k5_s22_e6_i96_o192_se0.25_nonlocal0.25-1
r3_k5_s11_e3_i192_o192_se0.5
r1_k5_s11_e6_i192_o320_se0.5_nonlocal0.25-1
scale-rms
""")

AUTONL_L = ArchSpec.from_text("""\
r1_k3_s11_e1_i32_o16
r1_k5_s22_e3_i16_o24_nonlocal0.25-1
r1_k5_s11_e3_i24_o24
r1_k3_s11_e3_i24_o24_nonlocal0.25-2
r1_k5_s22_e6_i24_o40_nonlocal0.25-1
r3_k3_s11_e3_i40_o40_nonlocal0.25-2
r1_k5_s22_e6_i40_o80_nonlocal0.25-1
r2_k3_s11_e3_i80_o80_se0.5
r1_k3_s11_e3_i80_o80_se0.5_nonlocal0.125-2
r1_k5_s11_e6_i80_o96_se0.5_nonlocal0.25-1
r2_k5_s11_e3_i96_o96_se0.5
r1_k3_s11_e3_i96_o96_se0.5_nonlocal0.25-2
r1_k5_s22_e6_i96_o192_se0.5_nonlocal0.25-1
r2_k5_s11_e6_i192_o192_se0.5_nonlocal0.125-1
r1_k5_s11_e6_i192_o192_se0.5
r1_k5_s11_e6_i192_o320_se0.5_nonlocal0.25-1
scale-rms
""")

_NAMED = dict(
    s=AUTONL_S, l=AUTONL_L, autonl_s=AUTONL_S, autonl_l=AUTONL_L,
    **{name: ArchSpec.from_text(n.notation) for name, n in NAMED_NETWORKS.items()})


def resolve_arch(arch: Union[str, PathLike, Sequence[str], ArchSpec],
                 normalize: Optional[str] = None) -> ArchSpec:
    """Turn the ``arch`` of a config into a spec.

    Args:
        arch (str | PathLike | Sequence[str] | ArchSpec): ``'s'`` or ``'l'``, the name
            of a network of :func:`autonl_mm.list_models`, the path of a notation
            file, lines of notation, or a spec.
        normalize (str, optional): Divisor of LightNL's product, ``'rms'`` or
            ``'size'``. Defaults to None: what the notation or the spec says, and
            ``'rms'`` for names.

    Returns:
        ArchSpec: The spec.

    Raises:
        ValueError: If it is none of these, the notation is wrong, or ``normalize``
            contradicts it.
    """
    if normalize is not None:
        check_normalize(normalize)
    if isinstance(arch, (str, PathLike)) and arch in _NAMED:
        spec = _NAMED[arch]
        return spec if normalize is None else spec.with_normalize(normalize)
    # The authors' notation has no word for it, so its networks can have any.
    spec = _read_arch(arch, normalize or 'size')
    if normalize is not None and spec != spec.with_normalize(normalize):
        raise ValueError(
            f'normalize is {normalize!r}, but the arch is of a network with '
            f"{spec.normalize!r}: leave normalize out, or change the line "
            f"'scale-{NORMALIZE[spec.normalize]}' of the notation or the spec")
    return spec


def _read_arch(arch, normalize: str) -> ArchSpec:
    """The spec of an ``arch`` that is not a name."""
    if isinstance(arch, ArchSpec):
        return arch
    if isinstance(arch, (str, PathLike)):
        if osp.exists(arch):  # Path.exists() raises for a long string
            return ArchSpec.from_file(arch, normalize)
        near = get_close_matches(str(arch), _NAMED) or ['mnasnet_100']
        raise ValueError(
            f"arch {str(arch)!r} is unknown: expected 's', 'l', the path of a "
            'notation file (there is no such file), a list of block strings, '
            f'an ArchSpec or the name of a network, such as {", ".join(near)}')
    if isinstance(arch, Sequence) and all(isinstance(x, str) for x in arch):
        return ArchSpec.from_text('\n'.join(arch), normalize)
    raise ValueError(f"arch is {arch!r}, expected 's', 'l', the path of a "
                     'notation file, a list of block strings or an ArchSpec')

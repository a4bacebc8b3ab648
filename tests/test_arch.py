# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autonl_mm import AUTONL_L, AUTONL_S, ArchSpec, BlockSpec
from autonl_mm.arch import resolve_arch

# expand ratio, out channels, stride, kernel, LightNL ratio, LightNL stride,
# SE ratio; copied from the paper's description, not from the package.
TABLE_S = """
1  16 1 3 0     - 0
3  24 2 3 0.25  1 0
3  24 1 3 0     - 0
3  40 2 5 0.25  1 0
3  40 1 3 0.25  2 0
3  40 1 3 0     - 0
6  80 2 5 0.25  1 0.25
3  80 1 3 0     - 0.5
3  80 1 3 0     - 0.5
6  96 1 5 0.25  1 0.25
3  96 1 3 0     - 0.5
3  96 1 3 0     - 0.5
3  96 1 3 0     - 0.5
6 192 2 5 0.25  1 0.25
3 192 1 5 0     - 0.5
3 192 1 5 0     - 0.5
3 192 1 5 0     - 0.5
6 320 1 5 0.25  1 0.5
"""
TABLE_L = """
1  16 1 3 0     - 0
3  24 2 5 0.25  1 0
3  24 1 5 0     - 0
3  24 1 3 0.25  2 0
6  40 2 5 0.25  1 0
3  40 1 3 0.25  2 0
3  40 1 3 0.25  2 0
3  40 1 3 0.25  2 0
6  80 2 5 0.25  1 0
3  80 1 3 0     - 0.5
3  80 1 3 0     - 0.5
3  80 1 3 0.125 2 0.5
6  96 1 5 0.25  1 0.5
3  96 1 5 0     - 0.5
3  96 1 5 0     - 0.5
3  96 1 3 0.25  2 0.5
6 192 2 5 0.25  1 0.5
6 192 1 5 0.125 1 0.5
6 192 1 5 0.125 1 0.5
6 192 1 5 0     - 0.5
6 320 1 5 0.25  1 0.5
"""
FIRST = 'r1_k3_s11_e1_i32_o16'
LINE = 'r2_k5_s22_e6_i16_o24_a1_p1_se0.25_nonlocal0.25-2_noskip_sw'
TOKENS = LINE.split('_')


def with_token(name, token):
    """LINE with the token of that name replaced."""
    out = []
    for old in TOKENS:
        stem = old.rstrip('0123456789.-')
        out.append(token if stem == name else old)
    assert out != TOKENS
    return '_'.join(out)


def fails(text):
    with pytest.raises(ValueError) as info:
        ArchSpec.from_text(text)
    return str(info.value)


# ------------------------------------------------------------------- strategy
ratios = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([5e-324, 1e-300, 1e-17, 1e-5, 0.1, 0.25, 1 / 3, 1.0, 1]))


@st.composite
def block_specs(draw, in_channels):
    out_channels = draw(st.integers(1, 2000))
    expand_ratio = draw(
        st.one_of(
            st.integers(1, 999999),
            st.floats(1 / in_channels, 20).filter(lambda e: int(
                in_channels * e) >= 1), st.floats(1, 999999)))
    nl_ratio = draw(
        st.one_of(
            st.just(0.0),
            st.floats(1 / out_channels, 1).filter(lambda r: int(
                out_channels * r) >= 1)))
    return BlockSpec(
        in_channels,
        out_channels,
        stride=draw(st.sampled_from([1, 2])),
        kernel_size=draw(st.sampled_from([1, 3, 5, 7, 999])),
        expand_ratio=expand_ratio,
        se_ratio=draw(st.one_of(st.just(0.0), ratios)),
        nl_ratio=nl_ratio,
        nl_stride=draw(st.integers(1, 50)),
        skip=draw(st.booleans()))


@st.composite
def arch_specs(draw):
    stem = channels = draw(st.one_of(st.just(32), st.integers(1, 999999)))
    blocks = []
    for _ in range(draw(st.integers(1, 6))):
        blocks.append(draw(block_specs(channels)))
        channels = blocks[-1].out_channels
    head = draw(st.one_of(st.just(1280), st.integers(1, 999999)))
    return ArchSpec(tuple(blocks), stem, head).with_normalize(
        draw(st.sampled_from(['size', 'rms'])))


# ----------------------------------------------------------------- round trip
@settings(max_examples=50)
@given(arch_specs())
def test_round_trip_is_the_identity(spec):
    text = spec.to_text()
    assert ArchSpec.from_text(text) == spec
    assert ArchSpec.from_text(text).to_text() == text


@pytest.mark.parametrize('spec', [AUTONL_S, AUTONL_L])
def test_normalize_has_a_line_of_its_own(spec):
    paper = spec.with_normalize('size')
    assert spec.normalize == 'rms' and paper.normalize == 'size'
    assert paper.with_normalize('rms') == spec != paper
    text = paper.to_text()
    assert 'scale' not in text and spec.to_text() == text + 'scale-rms\n'
    assert ArchSpec.from_text(text) == paper
    for line, normalize in ('scale-rms # bounded', 'rms'), ('scale-paper', 'size'):
        for default in 'rms', 'size':
            read = ArchSpec.from_text(f'{line}\n{text}', default)
            assert read == spec.with_normalize(normalize)
    assert ArchSpec.from_text(text, 'rms') == spec
    bare = paper.without_light_nl()
    assert bare.normalize is None and bare == spec.without_light_nl()
    assert ArchSpec.from_text(bare.to_text()) == bare


@pytest.mark.parametrize('value,digits', [
    (5e-324, f"0.{'0' * 323}5"),
    (1e-7, '0.0000001'),
    (0.1 + 0.2, '0.30000000000000004'),
    (1 / 3, '0.3333333333333333'),
    (1, '1'),
])
def test_ratio_is_written_in_positional_digits(value, digits):
    spec = ArchSpec((BlockSpec(16, 16, 1, 3, 1, se_ratio=value), ), 16)
    assert f'_se{digits}\n' in spec.to_text()
    assert ArchSpec.from_text(spec.to_text()) == spec


def test_round_trip_keeps_what_has_no_default():
    spec = ArchSpec((BlockSpec(8, 8, 1, 7, 2.5, skip=False), ), 8, 333)
    text = spec.to_text()
    assert 'noskip' in text and 'e2.5' in text and 'head333' in text
    assert ArchSpec.from_text(text) == spec
    assert 'head' not in replace(spec, head_channels=1280).to_text()


@pytest.mark.parametrize('change', [
    dict(in_channels=10**6),
    dict(out_channels=10**6),
    dict(kernel_size=10**6 + 1),
    dict(expand_ratio=1e6),
    dict(expand_ratio=1e22),
    dict(expand_ratio=1e308),
    dict(expand_ratio=10**400),
    dict(se_ratio=10**400),
    dict(nl_ratio=0.5, nl_stride=10**6),
])
def test_spec_refuses_what_the_notation_cannot_express(change):
    field = list(change)[-1]
    with pytest.raises(ValueError, match=field):
        BlockSpec(**dict(
            dict(in_channels=8, out_channels=8, stride=1, kernel_size=3,
                 expand_ratio=3), **change))


# ---------------------------------------------------------- released networks
@pytest.mark.parametrize('spec,table', [(AUTONL_S, TABLE_S),
                                        (AUTONL_L, TABLE_L)])
def test_released_networks_are_the_papers(spec, table):
    assert spec.stem_channels == 32 and spec.head_channels == 1280
    rows = [line.split() for line in table.split('\n') if line]
    assert len(spec.blocks) == len(rows)
    channels = 32
    for block, (e, out, s, k, nl, nl_stride, se) in zip(spec.blocks, rows):
        assert block.in_channels == channels
        assert block.expand_ratio == float(e)
        assert block.out_channels == int(out)
        assert block.stride == int(s)
        assert block.kernel_size == int(k)
        assert block.nl_ratio == float(nl)
        assert block.nl_stride == (1 if nl_stride == '-' else int(nl_stride))
        assert block.se_ratio == float(se)
        assert block.skip
        channels = block.out_channels


@pytest.mark.parametrize('spec,sizes', [
    (AUTONL_S, (1, 2, 3, 3, 4, 4, 1)),
    (AUTONL_L, (1, 3, 4, 4, 4, 4, 1)),
])
def test_stages_of_the_released_networks(spec, sizes):
    assert tuple(len(stage) for stage in spec.stages) == sizes
    assert tuple(b for stage in spec.stages for b in stage) == spec.blocks


def test_stage_starts_at_stride_or_width():
    blocks = (
        BlockSpec(8, 8, 1, 3, 1),
        BlockSpec(8, 8, 1, 3, 1, skip=False),
        BlockSpec(8, 8, 2, 3, 1),
        BlockSpec(8, 8, 1, 3, 1),
        BlockSpec(8, 9, 1, 3, 1),
        BlockSpec(9, 8, 2, 3, 1),
    )
    assert [len(s) for s in ArchSpec(blocks, 8).stages] == [2, 2, 1, 1]


# -------------------------------------------------------------------- parsing
@given(st.permutations(TOKENS))
def test_tokens_come_in_any_order(tokens):
    text = f'{FIRST}\n{LINE}'
    assert ArchSpec.from_text(f'{FIRST}\n' + '_'.join(tokens)) == \
        ArchSpec.from_text(text)


def test_every_token_is_parsed():
    first, second, third = ArchSpec.from_text(f'{FIRST}\n{LINE}').blocks
    assert first == BlockSpec(32, 16, 1, 3, 1)
    assert second == BlockSpec(16, 24, 2, 5, 6, 0.25, 0.25, 2, False, 'size')
    # repeats after the first: stride 1, channels in as out
    assert third == BlockSpec(24, 24, 1, 5, 6, 0.25, 0.25, 2, False, 'size')


def test_repeats():
    spec = ArchSpec.from_text('r1000_k3_s22_e3_i16_o24')
    assert spec.stem_channels == 16
    assert len(spec.blocks) == 1000
    assert spec.blocks[0] == BlockSpec(16, 24, 2, 3, 3)
    assert set(spec.blocks[1:]) == {BlockSpec(24, 24, 1, 3, 3)}


@pytest.mark.parametrize('token,ratio,stride', [
    ('nonlocal', 1.0, 1),
    ('nonlocal0.5', 0.5, 1),
    ('nonlocal0.125-4', 0.125, 4),
    ('nonlocal1-2', 1.0, 2),
])
def test_forms_of_nonlocal(token, ratio, stride):
    block = ArchSpec.from_text(f'{FIRST}_{token}').blocks[0]
    assert (block.nl_ratio, block.nl_stride) == (ratio, stride)


def test_comments_blank_lines_and_line_ends():
    text = (f'# AutoNL\r\n\n  \t\n  {FIRST}  # first\r\n# r1\n'
            'head64 # the head\n\nr1_k3_s22_e3_i16_o24#x')
    spec = ArchSpec.from_text(text)
    assert len(spec.blocks) == 2 and spec.head_channels == 64


# --------------------------------------------------------------------- errors
@pytest.mark.parametrize('line,token,expected', [
    # unknown
    (LINE + '_foo', 'foo', 'unknown'),
    (LINE + '_', '', 'unknown'),
    (LINE + '_x3', 'x3', 'unknown'),
    (LINE + '_7', '7', 'unknown'),
    (LINE.replace('k5', 'K5'), 'K5', 'unknown'),
    (LINE.replace('_k5', '__k5'), '', 'unknown'),
    ('skip', 'skip', 's11 or s22'),
    # values of the wrong form
    (with_token('r', 'r'), 'r', 'positive integer'),
    (with_token('r', 'r0'), 'r0', 'positive integer'),
    (with_token('r', 'r-1'), 'r-1', 'positive integer'),
    (with_token('r', 'r1.0'), 'r1.0', 'positive integer'),
    (with_token('r', 'r1001'), 'r1001', 'at most 1000'),
    (with_token('r', 'r999999999999'), 'r999999999999', 'positive integer'),
    (with_token('i', 'i+16'), 'i+16', 'positive integer'),
    (with_token('i', 'i16 '), 'i16 ', 'positive integer'),
    (with_token('o', 'o\u0662\u0664'), 'o\u0662\u0664', 'positive integer'),
    (with_token('o', 'o\u00b2'), 'o\u00b2', 'positive integer'),
    (with_token('o', 'o0x18'), 'o0x18', 'positive integer'),
    (with_token('k', 'k4'), 'k4', 'odd'),
    (with_token('k', 'k0'), 'k0', 'positive integer'),
    (with_token('k', 'k'), 'k', 'positive integer'),
    (with_token('k', 'k3.5'), 'k3.5', 'positive integer'),
    (with_token('k', 'k-3'), 'k-3', 'positive integer'),
    (with_token('s', 's12'), 's12', 's11 or s22'),
    (with_token('s', 's21'), 's21', 's11 or s22'),
    (with_token('s', 's33'), 's33', 's11 or s22'),
    (with_token('s', 's2'), 's2', 's11 or s22'),
    (with_token('s', 's222'), 's222', 's11 or s22'),
    (with_token('s', 's'), 's', 's11 or s22'),
    (with_token('e', 'e'), 'e', 'number'),
    (with_token('e', 'e0'), 'e0', 'above 0'),
    (with_token('e', 'e-3'), 'e-3', 'number'),
    (with_token('e', 'e+3'), 'e+3', 'number'),
    (with_token('e', 'e1e3'), 'e1e3', 'number'),
    (with_token('e', 'enan'), 'enan', 'number'),
    (with_token('e', 'einf'), 'einf', 'number'),
    (with_token('e', 'e.5'), 'e.5', 'number'),
    (with_token('e', 'e3.'), 'e3.', 'number'),
    (with_token('e', 'e1.5.2'), 'e1.5.2', 'number'),
    (with_token('e', 'e\u0663'), 'e\u0663', 'number'),
    (with_token('e', 'e0.01'), 'e0.01', 'at least one'),
    (with_token('a', 'a3'), 'a3', 'a1'),
    (with_token('a', 'a'), 'a', 'a1'),
    (with_token('p', 'p3'), 'p3', 'p1'),
    (with_token('se', 'se'), 'se', 'number'),
    (with_token('se', 'se0'), 'se0', '(0, 1]'),
    (with_token('se', 'se0.000'), 'se0.000', '(0, 1]'),
    (with_token('se', 'se1.01'), 'se1.01', '(0, 1]'),
    (with_token('se', 'se-0.5'), 'se-0.5', 'number'),
    (with_token('nonlocal', 'nonlocal0-1'), 'nonlocal0-1', '(0, 1]'),
    (with_token('nonlocal', 'nonlocal1.5'), 'nonlocal1.5', '(0, 1]'),
    (with_token('nonlocal', 'nonlocal-1'), 'nonlocal-1', 'number'),
    (with_token('nonlocal', 'nonlocal0.5-'), 'nonlocal0.5-', 'integer'),
    (with_token('nonlocal', 'nonlocal0.5-0'), 'nonlocal0.5-0', 'integer'),
    (with_token('nonlocal', 'nonlocal0.5--1'), 'nonlocal0.5--1', 'integer'),
    (with_token('nonlocal', 'nonlocal0.5-1-2'), 'nonlocal0.5-1-2', 'integer'),
    (with_token('nonlocal', 'nonlocal1e-3-1'), 'nonlocal1e-3-1', 'number'),
    (with_token('nonlocal', 'nonlocal0.01-1'), 'nonlocal0.01-1', 'at least'),
    (with_token('noskip', 'noskip1'), 'noskip1', 'without a value'),
    (with_token('sw', 'sw1'), 'sw1', 'without a value'),
    # twice
    (LINE + '_k5', 'k5', 'once'),
    (LINE + '_noskip', 'noskip', 'once'),
    (LINE + '_nonlocal0.5', 'nonlocal0.5', 'once'),
    # channels that do not chain
    (with_token('i', 'i32'), 'i32', 'i16'),
    # the head
    ('head0', 'head0', 'positive integer'),
    ('head64x', 'head64x', 'positive integer'),
    ('head', 'head', 'unknown'),
    # the scale
    ('scale', 'scale', 'scale-paper or scale-rms'),
    ('scale-', 'scale-', 'scale-paper or scale-rms'),
    ('scale-root', 'scale-root', 'scale-paper or scale-rms'),
    ('scalerms', 'scalerms', 'scale-paper or scale-rms'),
    ('scale-rms_k3', 'scale-rms_k3', 'scale-paper or scale-rms'),
    ('scale rms', 'scale rms', 'scale-paper or scale-rms'),
])
def test_error_names_line_token_and_expectation(line, token, expected):
    text = f'# a comment\n\n{FIRST}\n{line}\n{line}\n'
    message = fails(text)
    assert message.startswith(f'line 4 ({line.strip()!r}): ')
    message = message.split('): ', 1)[1]
    assert f'token {token!r}' in message
    assert expected in message


@pytest.mark.parametrize('name,meaning', [
    ('r', 'repeats'),
    ('k', 'kernel'),
    ('s', 'stride'),
    ('e', 'expand ratio'),
    ('i', 'input channels'),
    ('o', 'output channels'),
])
def test_missing_field(name, meaning):
    line = '_'.join(t for t in TOKENS if t.rstrip('0123456789.-') != name)
    message = fails(f'{FIRST}\n{line}')
    assert message.startswith('line 2 ')
    assert f'token {name!r} ({meaning}) is missing' in message
    assert 'r, k, s, e, i, o' in message


def test_repeat_that_leaves_no_hidden_channel():
    # the first block has 1 hidden channel of 4, its repeats 0 of 2
    ArchSpec.from_text('r1_k3_s22_e0.25_i4_o2')
    message = fails('r2_k3_s22_e0.25_i4_o2')
    assert 'line 1' in message and "token 'e0.25'" in message


@pytest.mark.parametrize('lines', ['head64\nhead64', 'scale-paper\nscale-rms'])
def test_given_twice(lines):
    message = fails(f'{FIRST}\n{lines}')
    assert 'line 3' in message and 'once' in message


@pytest.mark.parametrize('text', ['', '\n \n', '# nothing', 'head64', 'scale-rms'])
def test_no_block(text):
    message = fails(text)
    assert 'no block' in message and FIRST in message


# ----------------------------------------------------------------------- fuzz
def parses_or_value_error(text):
    try:
        spec = ArchSpec.from_text(text)
    except ValueError:
        return
    assert isinstance(spec, ArchSpec)
    assert ArchSpec.from_text(spec.to_text()) == spec


@settings(max_examples=100)
@given(st.text())
def test_fuzz_any_text(text):
    parses_or_value_error(text)


pieces = st.one_of(
    st.sampled_from(TOKENS + FIRST.split('_')),
    st.from_regex(
        r'(r|k|s|e|i|o|a|p|se|sw|noskip|nonlocal|head|scale)[-+.e0-9]{0,9}',
        fullmatch=True),
    st.text(max_size=4),
    st.sampled_from(['\n', '#', 'i24', 'o24', 'r1000', 'head7', 'scale-rms']))


@settings(max_examples=100)
@given(st.data())
def test_fuzz_mutated_text(data):
    tokens = f'{FIRST}_\n_{LINE}'.split('_')
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(tokens) - 1))
        action = data.draw(st.sampled_from(['delete', 'replace', 'insert']))
        tokens[place:place + (action != 'insert')] = \
            [] if action == 'delete' else [data.draw(pieces)]
        tokens = tokens or ['']
    parses_or_value_error('_'.join(tokens).replace('_\n_', '\n'))


@pytest.mark.parametrize(
    'text', [
        'r1_' * 10**5,
        'r' + '1' * 10**6,
        FIRST + '_e1.' + '1' * 10**6,
        FIRST + '_se0.' + '0' * 10**6 + '1',
        FIRST + '_nonlocal' + '-' * 10**5,
        'r1000_k3_s11_e1_i32_o32\n' * 20,
        '\n' * 10**6,
    ],
    ids=['repeated', 'int', 'float', 'tiny', 'dashes', 'deep', 'blank'])
def test_hostile_text_is_parsed_quickly(text):
    start = time.perf_counter()
    parses_or_value_error(text)
    assert time.perf_counter() - start < 10


# ------------------------------------------------------------------ the specs
@pytest.mark.parametrize('change', [
    dict(in_channels=0),
    dict(in_channels=16.0),
    dict(in_channels=True),
    dict(in_channels='16'),
    dict(out_channels=-1),
    dict(stride=3),
    dict(stride=True),
    dict(stride=1.0),
    dict(kernel_size=4),
    dict(kernel_size=-3),
    dict(kernel_size=3.0),
    dict(expand_ratio=0),
    dict(expand_ratio=float('nan')),
    dict(expand_ratio=float('inf')),
    dict(expand_ratio=None),
    dict(expand_ratio=0.05),
    dict(se_ratio=1.5),
    dict(se_ratio=-0.25),
    dict(se_ratio=float('nan')),
    dict(se_ratio=True),
    dict(nl_ratio=1.0001),
    dict(nl_ratio=0.06),
    dict(nl_ratio='0.25'),
    dict(nl_ratio=0.25, nl_stride=0),
    dict(nl_ratio=0.25, nl_stride=1.5),
    dict(skip=1),
    dict(normalize='root'),
    dict(normalize=None),
    dict(nl_ratio=0.25, normalize=['rms']),
])
def test_block_spec_names_field_and_value(change):
    field, value = list(change.items())[-1]
    with pytest.raises(ValueError) as info:
        BlockSpec(**dict(
            dict(
                in_channels=16,
                out_channels=16,
                stride=1,
                kernel_size=3,
                expand_ratio=3), **change))
    assert str(info.value).startswith(field)
    assert repr(value) in str(info.value)
    assert 'expected' in str(info.value)


def test_widths_of_a_block():
    block = BlockSpec(40, 80, 2, 5, 2.49, se_ratio=0.26, nl_ratio=0.124)
    assert block.mid_channels == 99  # int(99.6)
    assert block.se_channels == 10  # round(10.4)
    assert block.nl_channels == 9  # int(9.92)
    assert BlockSpec(40, 80, 2, 5, 6, se_ratio=1e-9).se_channels == 1
    assert BlockSpec(40, 80, 2, 5, 6).se_channels == 0


def test_identity_and_expand():
    block = BlockSpec(16, 16, 1, 3, 1)
    assert block.with_identity and not block.with_expand
    assert not replace(block, skip=False).with_identity
    assert not replace(block, stride=2).with_identity
    assert not replace(block, out_channels=24).with_identity
    assert replace(block, expand_ratio=0.5).with_expand


def test_settings_of_an_absent_light_nl_mean_nothing():
    block = BlockSpec(8, 8, 1, 3, 1, nl_stride=2, normalize='size')
    assert block == BlockSpec(8, 8, 1, 3, 1)
    assert replace(block, nl_ratio=0.5).normalize == 'rms'


@pytest.mark.parametrize('kwargs,words', [
    (dict(blocks=()), 'at least one block'),
    (dict(blocks=(BlockSpec(16, 8, 1, 3, 1), )), 'blocks[0] takes 16'),
    (dict(blocks=(BlockSpec(32, 8, 1, 3, 1), BlockSpec(9, 8, 1, 3, 1))),
     'blocks[1] takes 9 channels but blocks[0] gives 8'),
    (dict(blocks=(FIRST, )), 'expected a BlockSpec'),
    (dict(blocks=AUTONL_S.blocks, stem_channels=0), 'stem_channels is 0'),
    (dict(blocks=AUTONL_S.blocks, head_channels=1.5), 'head_channels is 1.5'),
    (dict(blocks=AUTONL_S.blocks, head_channels=10**6), 'head_channels'),
    (dict(blocks=(BlockSpec(32, 8, 1, 3, 1), BlockSpec(8, 8, 1, 3, 1, 0, 1),
                  BlockSpec(8, 8, 1, 3, 1, 0, 1, normalize='size'))),
     "blocks[1] has 'rms' and blocks[2] has 'size'"),
])
def test_arch_spec_checks(kwargs, words):
    with pytest.raises(ValueError) as info:
        ArchSpec(**kwargs)
    assert words in str(info.value)


def test_frozen_and_hashable():
    block = BlockSpec(8, 8, 1, 3, 1)
    spec = ArchSpec([block], 8)
    with pytest.raises(FrozenInstanceError):
        block.stride = 2
    with pytest.raises(FrozenInstanceError):
        spec.blocks = ()
    same = ArchSpec((replace(block, expand_ratio=1.0), ), 8)
    assert {spec: 'a'}[same] == 'a'
    assert isinstance(spec.blocks, tuple)
    assert len({spec, same, replace(spec, head_channels=64)}) == 2


# ---------------------------------------------------------- files and resolve
def test_from_file_errors_name_the_file(tmp_path):
    path = tmp_path / 'net.txt'
    path.write_text(FIRST + '\nfoo\n')
    with pytest.raises(ValueError) as info:
        ArchSpec.from_file(path)
    assert str(path) in str(info.value) and 'line 2' in str(info.value)
    path.write_bytes(b'\x80\x02}q\x00\xff\xfe')
    with pytest.raises(ValueError) as info:
        ArchSpec.from_file(path)
    assert f'{path} is not a text file' in str(info.value)
    with pytest.raises(FileNotFoundError):
        ArchSpec.from_file(tmp_path / 'none.txt')


def test_resolve_arch(tmp_path):
    path = tmp_path / 'net.txt'
    path.write_text(AUTONL_L.to_text())
    assert resolve_arch('s') is AUTONL_S
    assert resolve_arch('l') is AUTONL_L
    assert resolve_arch(AUTONL_L) is AUTONL_L
    for file in path, str(path):
        assert resolve_arch(file) == ArchSpec.from_file(file) == AUTONL_L
    assert resolve_arch(AUTONL_S.to_text().split('\n')) == AUTONL_S
    assert resolve_arch((FIRST, )).blocks == (BlockSpec(32, 16, 1, 3, 1), )


def test_resolve_arch_with_normalize():
    paper = AUTONL_S.with_normalize('size')
    lines = paper.to_text().splitlines()
    # a name and the authors' notation leave it open
    for arch, default in ('s', AUTONL_S), (lines, paper):
        assert resolve_arch(arch) == default
        assert resolve_arch(arch, 'rms') == AUTONL_S
        assert resolve_arch(arch, 'size') == paper
    for spec, other, line in (AUTONL_S, 'size', 'scale-rms'), (paper, 'rms',
                                                               'scale-paper'):
        for arch in spec, [*lines, line]:
            assert resolve_arch(arch) == resolve_arch(arch, spec.normalize) == spec
            with pytest.raises(ValueError, match=rf"'{other}', but .*'{line}'"):
                resolve_arch(arch, other)
    bare = AUTONL_S.without_light_nl()
    for arch in bare, bare.to_text().splitlines():
        assert resolve_arch(arch, 'size') == resolve_arch(arch, 'rms') == bare
    for arch in 's', bare, lines:
        with pytest.raises(ValueError, match="normalize is 'root'"):
            resolve_arch(arch, 'root')


@pytest.mark.parametrize('arch', [
    'm', 'S', '', 'no/such/file.txt', Path('none.txt'), 'a\0b',
    AUTONL_S.to_text(), 'x' * 5000, None, 3, ['s', 3], [None], dict(arch='s'),
    b's'
])
def test_resolve_arch_says_what_it_expects(arch):
    with pytest.raises(ValueError) as info:
        resolve_arch(arch)
    message = str(info.value)
    assert "'s', 'l', the path" in message and 'ArchSpec' in message
    if isinstance(arch, (str, Path)):
        assert repr(str(arch)) in message


def test_resolve_arch_of_bad_notation(tmp_path):
    with pytest.raises(ValueError, match=r'line 2 .*foo'):
        resolve_arch([FIRST, 'foo'])
    with pytest.raises(ValueError, match='no block'):
        resolve_arch([])
    (tmp_path / 'bad.txt').write_text('foo')
    with pytest.raises(ValueError, match=r'bad\.txt: line 1'):
        resolve_arch(tmp_path / 'bad.txt')

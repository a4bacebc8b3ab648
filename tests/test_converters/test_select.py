# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Which tensors are taken from a checkpoint, and which mistakes are reported."""

import numpy as np
import pytest
import release_networks as reference
import torch

from autonl_mm.arch import ArchSpec
from autonl_mm.converters import ConversionError, tf_release, torch_release

# SE has 0.3 * 22 hidden units: 6 with TensorFlow's rounding, 7 with ours
ROWS = [(1, 22, 1, 3, 0, 1, 0), (3, 22, 1, 5, 0, 1, 0.3),
        (3, 24, 2, 3, 0.5, 2, 0.5)]
ARCH = ArchSpec.from_text(reference.notation(ROWS, 40))
AVERAGE = '/ExponentialMovingAverage'
RELEASES = dict(tf=tf_release, torch=torch_release)


@pytest.fixture(scope='module')
def known():
    """Weights of both releases, by name."""
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    result = {}
    for release in RELEASES:
        weights = reference.Weights()
        getattr(reference, f'{release}_release')(x, ROWS, weights, 40, 5)
        result[release] = weights.known
    result['torch'] = {
        k: torch.from_numpy(v) for k, v in result['torch'].items()
    }
    return result


@pytest.fixture
def tf_weights(known):
    return dict(known['tf'])


@pytest.fixture
def torch_weights(known):
    return dict(known['torch'])


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(got[name], value), name


# TensorFlow


def with_training(weights):
    """Variables of a training checkpoint that contains the weights."""
    full = {k: v + 1 for k, v in weights.items()}
    full.update({k + AVERAGE: v for k, v in weights.items()})
    full['global_step'] = np.int64(7)
    for name, value in weights.items():
        full[f'{name}/RMSProp'] = full[f'{name}/RMSProp_1'] = value * 0
    return full


def test_tf_averages(tf_weights):
    source = with_training(tf_weights)
    got, left_out = tf_release.select(source)
    assert_equal(got, tf_weights)
    # every variable once
    assert len(got) + len(left_out) == len(source)
    assert left_out['global_step'] == 'global step'
    reasons = list(left_out.values())
    assert reasons.count('optimiser') == 2 * len(tf_weights)
    assert all('average' in left_out[k] for k in tf_weights)


def test_tf_without_averages(tf_weights):
    source = with_training(tf_weights)
    got, left_out = tf_release.select(source, ema=False)
    assert_equal(got, {k: v + 1 for k, v in tf_weights.items()})
    assert all(k + AVERAGE in left_out for k in tf_weights)
    assert len(got) + len(left_out) == len(source)
    # without averages there is no choice
    assert tf_release.select(tf_weights) == (tf_weights, {})


def test_tf_tensors(tf_weights):
    """Order of dimensions, value by value."""
    state = tf_release.convert(tf_weights, ARCH)
    model = 'single-path/mnas_net_model'
    for ours, theirs, axes in (
        ('backbone.layers.0.conv', f'{model}/mnas_stem/conv2d_9/kernel',
         (3, 2, 0, 1)),
        ('backbone.layers.1.1.expand.conv',
         f'{model}/mnas_blocks_1/conv2d_1/kernel', (3, 2, 0, 1)),
        ('backbone.layers.1.1.depthwise.conv',
         f'{model}/mnas_blocks_1/depthwise_conv2d_1/depthwise_kernel',
         (2, 3, 0, 1)),
        ('backbone.layers.2.0.light_nl.conv',
         f'{model}/mnas_blocks_2/nl/depthwise_conv2d_3/depthwise_kernel',
         (2, 3, 0, 1)),
        ('head.fc', f'{model}/mnas_head/dense/kernel', (1, 0)),
    ):
        expected = tf_weights[theirs].transpose(axes)
        assert np.array_equal(state[f'{ours}.weight'], expected), ours
    assert np.array_equal(
        state['backbone.layers.1.1.depthwise.bn.running_var'],
        tf_weights['single-path/mnas_blocks_1/batch_normalization_1/'
                   'moving_variance'])


def test_tf_first_layers_have_no_number(tf_weights):
    model = 'single-path/mnas_net_model/mnas_blocks_0'
    assert f'{model}/conv2d/kernel' in tf_weights
    assert f'{model}/depthwise_conv2d/depthwise_kernel' in tf_weights


def test_tf_numbers_are_not_sorted_as_text(tf_weights):
    """conv2d_11 comes after conv2d_8, and any number may be the first."""
    moved = {}
    for name, value in tf_weights.items():
        for n in range(10, 0, -1):
            name = name.replace(f'/conv2d_{n}/', f'/conv2d_{n + 7}/')
        moved[name] = value
    for n in (8, 11):
        assert f'{MODEL}mnas_blocks_1/conv2d_{n}/kernel' in moved
    assert_equal(tf_release.convert(moved, ARCH),
                 tf_release.convert(tf_weights, ARCH))


def test_tf_hidden_units_added_by_rounding(tf_weights):
    state = tf_release.convert(tf_weights, ARCH)
    se = 'backbone.layers.1.1.se'
    bias = tf_weights[f'{MODEL}mnas_blocks_1/se/conv2d_2/bias']
    assert bias.shape == (6, ) and ARCH.blocks[1].se_channels == 7
    assert np.array_equal(state[f'{se}.reduce.bias'], [*bias, 0])
    assert not state[f'{se}.reduce.weight'][6].any()
    assert not state[f'{se}.expand.weight'][:, 6].any()
    assert state[f'{se}.reduce.weight'][:6].all()
    assert state[f'{se}.expand.weight'][:, :6].all()


MODEL = 'single-path/mnas_net_model/'
TF_MISTAKES = dict(
    # moved into block 1's scope: three convolutions where two are expected
    three_in_a_scope=(lambda w: w.update({
        f'{MODEL}mnas_blocks_1/conv2d_5/kernel':
        w.pop(f'{MODEL}mnas_blocks_2/conv2d_5/kernel')
    }), ['ambiguous', 'mnas_blocks_1 has 3 conv2d', 'expected 2',
         'expand, project']),
    numbers_against_the_order=(lambda w: w.update({
        f'{MODEL}mnas_stem/conv2d_99/kernel':
        w.pop(f'{MODEL}mnas_stem/conv2d_9/kernel')
    }), ['ambiguous', 'mnas_head/conv2d_10', 'mnas_stem/conv2d_99']),
    bn_where_convolutions_are=(lambda w: w.update({
        f'{MODEL}mnas_stem/batch_normalization/gamma':
        w.pop('single-path/mnas_stem/batch_normalization/gamma')
    }), ['1 missing: single-path/mnas_stem/batch_normalization/gamma',
         f'1 unknown: {MODEL}mnas_stem/batch_normalization/gamma']),
    third_bn=(lambda w: w.update({
        'single-path/mnas_blocks_0/batch_normalization_2/gamma': np.ones(22)
    }), ['ambiguous', 'mnas_blocks_0 has 3 batch_normalization']),
    slot_of_an_unknown_optimiser=(lambda w: w.update({
        f'{MODEL}mnas_stem/conv2d_9/kernel/Shampoo': np.ones(3)
    }), ['1 unknown', 'conv2d_9/kernel/Shampoo']),
    objects=(lambda w: w.update({
        f'{MODEL}mnas_head/dense/bias': np.array([None] * 5)
    }), ['not of numbers', 'dense/bias']),
)


@pytest.mark.parametrize('mistake', TF_MISTAKES)
def test_tf_mistakes(mistake, tf_weights):
    change, words = TF_MISTAKES[mistake]
    change(tf_weights)
    with pytest.raises(ConversionError) as info:
        tf_release.convert(tf_weights, ARCH)
    for word in words:
        assert word in str(info.value)


# PyTorch


def training_checkpoint(weights, prefix='module.'):
    """A training checkpoint of the release whose moving averages are the weights."""
    raw = {prefix + k: v + 1 for k, v in weights.items()}
    for name in weights:
        if name.endswith('running_mean'):
            counter = name.replace('running_mean', 'num_batches_tracked')
            raw[prefix + counter] = torch.tensor(2**30 + 1)
    return dict(
        model=raw,
        optimizer=dict(
            state={0: dict(square_avg=torch.zeros(3), step=4)},
            param_groups=[dict(lr=0.1, params=[0])]),
        ema=dict(
            shadow=dict(weights),
            info={k: dict(num_updates=3, last_momemtum=0.9)
                  for k in weights},
            param=dict(momentum=0.9999, zero_debias=False)),
        last_epoch=349,
        best_val=torch.tensor(0.23))


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_torch_averages(prefix, torch_weights):
    source = training_checkpoint(torch_weights, prefix)
    got, left_out = torch_release.select(source)
    counters = {k: v for k, v in got.items() if 'num_batches' in k}
    assert all(v == 2**30 + 1 for v in counters.values())
    assert_equal({k: v for k, v in got.items() if k not in counters},
                 torch_weights)
    assert left_out['optimizer.state.0.square_avg'] == 'optimiser'
    assert left_out['best_val'] == 'training state'
    assert all('average' in left_out[k] for k in torch_weights)
    assert len(left_out) == len(torch_weights) + 2
    state = torch_release.convert(got, ARCH)
    assert state['backbone.layers.0.bn.num_batches_tracked'] == 2**30 + 1


def test_torch_without_averages(torch_weights):
    source = training_checkpoint(torch_weights)
    got, left_out = torch_release.select(source, ema=False)
    assert torch.equal(got['classifier.1.bias'],
                       torch_weights['classifier.1.bias'] + 1)
    assert 'ema.shadow.classifier.1.bias' in left_out
    source['ema'] = None  # as saved without averaging
    again, _ = torch_release.select(source)
    assert_equal(again, got)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_torch_state_dict(prefix, torch_weights):
    source = {prefix + k: v for k, v in torch_weights.items()}
    got, left_out = torch_release.select(source)
    assert_equal(got, torch_weights)
    assert not left_out
    state = torch_release.convert(got, ARCH)
    assert state['backbone.layers.0.bn.num_batches_tracked'] == 0


def test_torch_factor_follows_the_resolution(torch_weights):
    name = 'backbone.layers.2.0.light_nl.conv.weight'
    theirs = torch_weights['features.3.nl_op.depthwise_conv.weight']
    for side, size in ((224, 56), (97, 25)):  # at stride 4
        state = torch_release.convert(torch_weights, ARCH, (side, side))
        assert torch.equal(state[name], theirs * size**2)
    # the source is not changed
    assert theirs.abs().max() < 1


# both


def test_sources_are_not_changed(known):
    for release, converter in RELEASES.items():
        before = {k: np.array(v) for k, v in known[release].items()}
        state = converter.convert(known[release], ARCH)
        for tensor in state.values():
            tensor.add_(1)
        assert_equal(known[release], before)


def test_other_dtypes(known):
    big_endian = {k: v.astype('>f8') for k, v in known['tf'].items()}
    assert_equal(tf_release.convert(big_endian, ARCH),
                 tf_release.convert(known['tf'], ARCH))
    double = {k: v.double() for k, v in known['torch'].items()}
    state = torch_release.convert(double, ARCH)
    assert_equal(state, torch_release.convert(known['torch'], ARCH))
    assert all(v.dtype in (torch.float32, torch.int64)
               for v in state.values())


FIRST = dict(tf=f'{MODEL}mnas_stem/conv2d_9/kernel',
             torch='features.0.0.weight')


def change_shape(weights, name):
    weights[name] = weights[name].transpose(0, 1) if isinstance(
        weights[name], torch.Tensor) else weights[name].swapaxes(2, 3)


MISTAKES = dict(
    missing=(lambda w, n: w.pop(n), ['1 missing: ', 'for the stem']),
    extra=(lambda w, n: w.update(spare=w[n]), ['1 unknown: spare']),
    shape=(change_shape, ['1 of another shape: {} is (', 'for the stem']),
    nan=(lambda w, n: w.update({n: w[n] * float('nan')}),
         ['1 not finite: {}']),
    no_tensor=(lambda w, n: w.update({n: 'text'}),
               ['1 not a tensor: {}, of type str']),
)


@pytest.mark.parametrize('mistake', MISTAKES)
@pytest.mark.parametrize('release', RELEASES)
def test_mistakes(release, mistake, known):
    weights = dict(known[release])
    change, words = MISTAKES[mistake]
    change(weights, FIRST[release])
    with pytest.raises(ConversionError) as info:
        RELEASES[release].convert(weights, ARCH)
    for word in words:
        assert word.format(FIRST[release]) in str(info.value)


@pytest.mark.parametrize('release', RELEASES)
def test_light_nl_of_the_releases(release, known):
    with pytest.raises(ConversionError, match="'rms', but the authors' weights"):
        RELEASES[release].convert(known[release], ARCH.with_normalize('rms'))


@pytest.mark.parametrize('release', RELEASES)
def test_every_tensor_is_needed(release, known):
    for name in known[release]:
        weights = {k: v for k, v in known[release].items() if k != name}
        with pytest.raises(ConversionError, match=r'missing|ambiguous'):
            RELEASES[release].convert(weights, ARCH)


@pytest.mark.parametrize('release', RELEASES)
@pytest.mark.parametrize('blocks', [2, 4])
def test_wrong_arch(release, blocks, known):
    rows = (ROWS + [(3, 24, 1, 3, 0, 1, 0)])[:blocks]
    arch = ArchSpec.from_text(reference.notation(rows, 40))
    with pytest.raises(ConversionError) as info:
        RELEASES[release].convert(known[release], arch)
    assert f'arch of {blocks} blocks (the weights have 3)' in str(info.value)
    assert 'Give the arch' in str(info.value)


@pytest.mark.parametrize('release', RELEASES)
def test_same_blocks_other_kernel(release, known):
    rows = [(*ROWS[0][:3], 5, *ROWS[0][4:]), *ROWS[1:]]
    arch = ArchSpec.from_text(reference.notation(rows, 40))
    with pytest.raises(ConversionError,
                       match=r'1 of another shape.*depthwise of block 0'):
        RELEASES[release].convert(known[release], arch)


@pytest.mark.parametrize('release', RELEASES)
def test_averages_of_some(release, tf_weights, torch_weights):
    if release == 'tf':
        source = with_training(tf_weights)
        del source[FIRST['tf'] + AVERAGE]
    else:
        source = training_checkpoint(torch_weights)
        del source['ema']['shadow'][FIRST['torch']]
    with pytest.raises(ConversionError, match='no moving average') as info:
        RELEASES[release].select(source)
    assert FIRST[release] in str(info.value)
    assert '--no-ema' in str(info.value)
    weights, _ = RELEASES[release].select(source, ema=False)
    RELEASES[release].convert(weights, ARCH)

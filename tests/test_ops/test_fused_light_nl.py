# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autonl_mm import ops
from autonl_mm.models.layers.light_nl import light_nl

CHANNELS_LAST = torch.channels_last


@pytest.fixture(scope='module', autouse=True)
def operator():
    ops.load_fused_light_nl()


def formula(x, weight, bias, nl_channels, stride, order, dilation):
    y = light_nl(x.double(), nl_channels, stride, order)
    return x + F.conv2d(y, weight.double(), bias.double(), padding=dilation,
                        dilation=dilation, groups=x.shape[1])


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_it_is_the_formula(data):
    """Of any size, in both orders, by any number of threads."""
    def draw(low, high):
        return data.draw(st.integers(low, high))

    n, c, h, w = draw(1, 5), draw(1, 60), draw(1, 20), draw(1, 20)
    k, stride, dilation = draw(1, c), draw(1, 4), draw(1, 5)
    order = data.draw(st.sampled_from(['auto', 'channel', 'spatial']))
    torch.manual_seed(draw(0, 9))
    x = torch.randn(n, c, h, w)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=CHANNELS_LAST)
    weight, bias = torch.randn(c, 1, 3, 3), torch.randn(c)
    want = formula(x, weight, bias, k, stride, order, dilation)
    residual = torch.randn(n, c, h, w) if data.draw(st.booleans()) else None
    if residual is not None:
        want = want + residual
    threads = torch.get_num_threads()
    torch.set_num_threads(draw(1, 6))
    try:
        got = ops.fused_light_nl(x, weight, bias, k, stride, order, dilation,
                                 residual)
    finally:
        torch.set_num_threads(threads)
    assert (got - want).abs().max() <= 2e-6 * want.abs().max()
    assert got.dtype == x.dtype and got.shape == x.shape
    assert got.is_contiguous(memory_format=CHANNELS_LAST) == \
        x.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_not_finite_stays_so(value):
    x = torch.randn(1, 16, 6, 6)
    x[0, 0, 2, 3] = value
    weight, bias = torch.randn(16, 1, 3, 3), torch.randn(16)
    got = ops.fused_light_nl(x, weight, bias, 4)
    want = formula(x, weight, bias, 4, 1, 'auto', 1)
    assert torch.equal(got.isfinite(), want.isfinite())
    assert not got.isfinite().all()


def test_views_and_weights_of_any_layout():
    big = torch.randn(2, 24, 9, 11)
    weight = torch.randn(16, 1, 3, 3).contiguous(memory_format=CHANNELS_LAST)
    bias = torch.randn(32)[::2]
    for x in (big[:, 4:20], big[:, :16, ::2, 1::3],
              big[:, :16].permute(0, 1, 3, 2)):
        got = ops.fused_light_nl(x, weight, bias, 4, 2)
        want = formula(x, weight, bias, 4, 2, 'auto', 1)
        torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)


def test_no_pictures():
    x = torch.zeros(0, 8, 5, 5)
    got = ops.fused_light_nl(x, torch.zeros(8, 1, 3, 3), torch.zeros(8), 2)
    assert got.shape == x.shape


@pytest.mark.parametrize('change, words', [
    (dict(x=torch.zeros(2, 8, 5)), 'a float32 map'),
    (dict(x=torch.zeros(2, 8, 5, 5, dtype=torch.float64)), 'a float32 map'),
    (dict(weight=torch.zeros(8, 8, 3, 3)), r'weight \(8, 1, 3, 3\)'),
    (dict(weight=torch.zeros(8, 1, 5, 5)), r'weight \(8, 1, 3, 3\)'),
    (dict(bias=torch.zeros(7)), r'bias \(8\), got Float \[7\]'),
    (dict(residual=torch.zeros(2, 8, 5, 4)), r'residual \[2, 8, 5, 5\]'),
    (dict(nl_channels=9), r'0 < k <= 8 .* got 9'),
    (dict(dilation=0), 'positive stride and dilation'),
])
def test_bad_input(change, words):
    arguments = dict(x=torch.zeros(2, 8, 5, 5), weight=torch.zeros(8, 1, 3, 3),
                     bias=torch.zeros(8), nl_channels=2, order='channel')
    with pytest.raises(RuntimeError, match=words):
        ops.fused_light_nl(**dict(arguments, **change))


def load(tmp_path, **env):
    """Load the operator in a process of its own with an empty cache."""
    return subprocess.run(
        [sys.executable, '-c',
         'import torch\nfrom autonl_mm import ops\n'
         'ops.load_fused_light_nl()\n'
         'x = torch.ones(1, 1, 1, 1)\n'
         'print(ops.fused_light_nl(x, torch.ones(1, 1, 3, 3), x[0, 0, 0], 1))'],
        env=dict(os.environ, XDG_CACHE_HOME=str(tmp_path), **env),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_compiled_once(tmp_path):
    first = load(tmp_path)
    assert first.returncode == 0 and 'tensor([[[[3.]]]])' in first.stdout, \
        first.stdout
    library, = (tmp_path / 'autonl_mm').iterdir()
    # no compiler is needed any more
    again = load(tmp_path, CXX='no-such-compiler')
    assert again.returncode == 0, again.stdout
    assert list((tmp_path / 'autonl_mm').iterdir()) == [library]


@pytest.mark.parametrize('compiler, words', [
    ('no-such-compiler', "'no-such-compiler' does not start: install g++"),
    ('false', 'did not compile: false -std'),
])
def test_no_compiler(compiler, words, tmp_path):
    result = load(tmp_path, CXX=compiler)
    assert result.returncode == 1 and words in result.stdout
    assert not list((tmp_path / 'autonl_mm').iterdir())

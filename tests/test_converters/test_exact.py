# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Converted networks compute what the releases' networks compute."""
import numpy as np
import pytest
import release_networks as reference
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.arch import AUTONL_L, AUTONL_S, ArchSpec
from autonl_mm.converters import tf_release, torch_release

CONVERTERS = dict(tf=tf_release, torch=torch_release)
RANDOM = [f'random{seed}' for seed in range(6)]


def network(name):
    """Rows, head channels and classes of a network."""
    if name in 'sl':
        rows = dict(s=reference.AUTONL_S, l=reference.AUTONL_L)[name]
        return rows, 1280, 1000
    return reference.random_rows(int(name[6:])), 72, 13


def build(release, arch, head, classes):
    """The classifier of a release's config, with another arch."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(
        ROOT / f'configs/mmpretrain/autonl-s_3rdparty-{release}_in1k.py')
    cfg.model.backbone.update(arch=arch, out_indices=(-1, ))
    cfg.model.head.update(in_channels=head, num_classes=classes)
    return MODELS.build(cfg.model).eval()


def test_tables():
    for rows, arch in ((reference.AUTONL_S, AUTONL_S),
                       (reference.AUTONL_L, AUTONL_L)):
        assert ArchSpec.from_text(reference.notation(rows), 'rms') == arch


def test_random_networks_have_every_kind_of_block():
    rows = [row for name in RANDOM for row in network(name)[0]]
    for column, values in ((0, {1, 3, 6}), (2, {1, 2}), (3, {3, 5, 7}),
                           (5, {1, 2})):
        assert {row[column] for row in rows} == values
    arches = [ArchSpec.from_text(reference.notation(network(n)[0]))
              for n in RANDOM]
    blocks = [b for arch in arches for b in arch.blocks]
    assert any(b.with_identity for b in blocks)
    # where TensorFlow's rounding of SE differs from ours
    assert any(b.se_channels > int(b.in_channels * b.se_ratio) > 0
               for b in blocks)


@pytest.mark.parametrize('name', ['s', 'l', *RANDOM])
@pytest.mark.parametrize('release', ['tf', 'torch'])
def test_logits(release, name, scope):
    rows, head, classes = network(name)
    rng = np.random.default_rng(0)
    size = 224 if name in 'sl' else 96
    x = rng.normal(size=(1, 3, size, size))
    weights = reference.Weights()
    forward = getattr(reference, f'{release}_release')
    expected = forward(x, rows, weights, head, classes)
    assert np.abs(expected).std() > 0.1

    source = weights.known
    if release == 'torch':
        source = {k: torch.from_numpy(v) for k, v in source.items()}
    arch = ArchSpec.from_text(reference.notation(rows, head))
    settings = dict(input_shape=(size, size)) if release == 'torch' else {}
    state = CONVERTERS[release].convert(source, arch, **settings)
    model = build(release, arch, head, classes)
    model.load_state_dict(state)
    with torch.no_grad():
        single = model(torch.tensor(x).float(), mode='tensor').numpy()
        double = model.double()(torch.tensor(x), mode='tensor').numpy()
    largest = np.abs(expected).max()
    assert np.abs(double - expected).max() < 1e-6 * largest
    assert np.abs(single - expected).max() < 1e-4 * largest


@pytest.mark.parametrize('release', ['tf', 'torch'])
def test_the_comparison_is_sensitive(release, scope):
    """To the other release's padding and to each rule that differs."""
    rows = [(1, 16, 1, 3, 0, 1, 0), (3, 24, 2, 5, 0.5, 2, 0.5)]
    x = np.random.default_rng(0).normal(size=(1, 3, 64, 64))
    weights = reference.Weights()
    forward = getattr(reference, f'{release}_release')
    forward(x, rows, weights, 72, 13)
    source = dict(weights.known)
    if release == 'torch':
        source = {k: torch.from_numpy(v) for k, v in source.items()}
    arch = ArchSpec.from_text(reference.notation(rows, 72))
    kwargs = dict(input_shape=(64, 64)) if release == 'torch' else {}
    state = CONVERTERS[release].convert(source, arch, **kwargs)

    expected = forward(x, rows, reference.Weights(known=weights.known), 72, 13)
    x = torch.tensor(x)

    def error(model, state):
        model.load_state_dict(state)
        with torch.no_grad():
            got = model(x, mode='tensor').numpy()
        return np.abs(got - expected).max() / np.abs(expected).max()

    model = build(release, arch, 72, 13).double()
    assert error(model, state) < 1e-6
    other = build(dict(tf='torch', torch='tf')[release], arch, 72, 13)
    assert error(other.double(), state) > 1e-3
    name = 'backbone.layers.2.0.light_nl.conv.weight'
    assert error(model, {**state, name: state[name] / 4}) > 1e-3
    for name, tensor in state.items():
        if tensor.is_floating_point():
            assert error(model, {**state, name: tensor * 1.1}) > 1e-5, name

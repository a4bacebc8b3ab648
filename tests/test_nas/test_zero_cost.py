# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import torch
from search_spaces import TINY_SPACE

from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet
from autonl_mm.nas.search_hook import synflow_of
from autonl_mm.nas.zero_cost import synflow


def build(kernel, width, depth=1):
    return AutoNL([f'r1_k{kernel}_s22_e3_i8_o{width}',
                   f'r{depth}_k{kernel}_s11_e3_i{width}_o{width}', 'head16'],
                  out_indices=(-1, ))


def test_score_is_that_of_the_architecture():
    states = torch.get_rng_state()
    first = synflow(build(3, 8), 32, 32)
    assert synflow(build(3, 8), 32, 32) == first
    torch.manual_seed(3)
    assert synflow(build(3, 8), 32, 32) == first
    torch.set_rng_state(states)
    synflow(build(3, 8), 32, 32)


def test_generators_of_gpus_stay(monkeypatch):
    seeded = []
    for name in ('manual_seed', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    synflow(build(3, 8), 32, 32)
    assert not seeded


def test_more_weights_score_more():
    small = synflow(build(3, 8), 32, 32)
    for larger in (build(5, 8), build(3, 16), build(3, 8, depth=3)):
        assert synflow(larger, 32, 32) > small


def test_of_a_linear_network():
    """By hand: all paths through a stem and a head of known weights."""
    network = build(3, 8)
    network.layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 2, 1, bias=False)])
    network.out_indices = (0, )
    network.init_weights = lambda: network.layers[0].weight.data.copy_(
        torch.tensor([[1., -2, 3], [-1, 0, 1]])[..., None, None])
    # weight times gradient is |w| times 32 * 32 positions
    assert abs(synflow(network, 32, 32) - torch.tensor(8. * 1024).log()) < 1e-5


def test_of_a_network_of_the_space():
    supernet = AutoNLSuperNet(TINY_SPACE, input_shape=32, frozen_stages=1)
    generator = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    scores = {synflow_of(supernet, supernet.sample(generator)) for _ in range(4)}
    assert len(scores) == 4
    assert torch.equal(torch.get_rng_state(), before)

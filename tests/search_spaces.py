# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Spaces and gates for the tests of the search."""
import torch
from hypothesis import strategies as st

from autonl_mm.cost import LatencyTable, iter_blocks, strided

TINY_SPACE = dict(
    stem_channels=8,
    head_channels=32,
    stages=[
        dict(
            channels=8,
            depth=1,
            stride=1,
            kernel_size=3,
            expand_ratio=1,
            se_ratio=0,
            nl_ratio=0),
        dict(channels=16, depth=2, stride=2),
        dict(channels=24, depth=2, stride=2),
    ])


def subsets(options, **kwargs):
    """Non-empty subsets of options in any order."""
    return st.lists(st.sampled_from(options), min_size=1, unique=True, **kwargs)


@st.composite
def random_spaces(draw):
    """Spaces of up to three stages over all kinds of options."""
    stages = []
    channels = 8
    for _ in range(draw(st.integers(1, 3))):
        stride = draw(st.sampled_from((1, 2)))
        wider = channels + draw(st.sampled_from((0, 8) if stride == 2 or
                                                not stages else (8, )))
        expand = draw(
            st.one_of(
                st.just([1]), subsets((0, 2, 3, 4.5, 6)).filter(
                    lambda e: set(e) != {0})))
        stages.append(
            dict(
                channels=wider,
                depth=draw(st.integers(1, 3)),
                stride=stride,
                kernel_size=draw(subsets((3, 5, 7))),
                expand_ratio=expand,
                se_ratio=draw(subsets((0, 0.25, 0.5, 1))),
                nl_ratio=draw(subsets((0, 0.125, 0.25, 0.5, 1))),
                nl_stride=draw(
                    st.sampled_from(([1], [2], [2, 1], [1, 2, 4], [6, 3], [4, 2])))))
        channels = wider
    return dict(stem_channels=8, head_channels=16, stages=stages)


def randomize(supernet, seed):
    """Give gates, norms and statistics values as after some training."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        draw = torch.rand(tensor.shape, generator=generator)
        tensor.data.copy_(low + (high - low) * draw)

    for name, tensor in supernet.state_dict(keep_vars=True).items():
        if name.endswith('threshold'):
            uniform(tensor, 0, 2)
        elif name.endswith(('norm.weight', 'bn.weight', 'running_var')):
            uniform(tensor, 0.5, 1.5)
        elif name.endswith(('norm.bias', 'bn.bias', 'running_mean')):
            uniform(tensor, -0.5, 0.5)
        elif name.endswith('distance'):
            uniform(tensor, 0.5, 1.5)
        elif name.endswith('initial'):
            measured = torch.empty_like(tensor)
            uniform(measured, 0.5, 1.5)
            tensor.copy_(measured.where(supernet.gate_state.is_measured, tensor))


def latencies(supernet):
    """Made-up milliseconds for every candidate of a supernet."""
    space, shape = supernet.space, supernet.input_shape
    entries = {
        LatencyTable.stem_key(space.largest, shape, supernet.in_channels): 0.5}
    stride = supernet.output_stride
    for block, (_, _, size), placement in zip(
            space.blocks, iter_blocks(space.largest, shape, stride),
            space.largest.placements(stride)):
        for choice in block.choices():
            spec = block.spec(choice)
            if spec:
                entries[LatencyTable.block_key(spec, size, placement)] = (
                    1 + spec.mid_channels * spec.kernel_size +
                    spec.se_channels + spec.nl_channels)
        size = strided(size, placement.stride)
    entries[LatencyTable.head_key(space.largest, size)] = 0.25
    return entries


def set_importance(state, importance):
    """Let all gates have measured this importance, ``(G, )``."""
    state.importance_weight.fill_(1)
    state.importance_sum.copy_(importance)


def gate_index(supernet, name):
    """Slice of the flat gates that a decision has, named as in ``gates()``."""
    _, stage, block, decision = name.split('.')
    before = sum(len(s) for s in supernet.space.stages[:int(stage) - 1])
    return supernet.gate_state.slices[before + int(block)][decision]


@torch.no_grad()
def set_threshold(supernet, name, value, index=slice(None)):
    """Set thresholds of a decision, named as in ``gates()``."""
    supernet.gate_state.threshold[gate_index(supernet, name)][index] = value

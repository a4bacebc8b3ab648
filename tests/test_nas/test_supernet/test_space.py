# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import itertools

import pytest
from hypothesis import given
from search_spaces import TINY_SPACE, random_spaces

from autonl_mm.arch import AUTONL_L, AUTONL_S
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.supernet.space import DECISIONS, MNASNET_SPACE


def changed(**stage):
    space = copy.deepcopy(TINY_SPACE)
    space['stages'][1].update(stage)
    return space


def test_default_space_is_the_papers():
    space = SearchSpace.from_config('mnasnet')
    assert [len(s) for s in space.stages] == [1, 4, 4, 4, 4, 4, 1]
    assert [s[0].out_channels for s in space.stages] == [16, 24, 40, 80, 96, 192, 320]
    assert [s[0].stride for s in space.stages] == [1, 2, 2, 2, 1, 2, 1]
    assert space.blocks[0].shape == (1, ) * 6
    first, second = space.stages[1][:2]
    assert first.options == dict(
        expand_ratio=(3, 6),
        kernel_size=(3, 5),
        se_ratio=(0, 0.25, 0.5),
        nl=(False, True),
        nl_ratio=(0.125, 0.25),
        nl_stride=(2, 1))
    assert second.options == dict(first.options, expand_ratio=(0, 3, 6))
    assert len(space.largest.blocks) == 22


@pytest.mark.parametrize('arch', [AUTONL_S, AUTONL_L])
def test_default_space_holds_the_papers_networks(arch):
    space = SearchSpace.from_config('mnasnet')
    for stage, choices in zip(arch.stages, space.stages):
        assert len(stage) <= len(choices)
        for i, block in enumerate(stage):
            assert block in map(choices[i].spec, choices[i].choices())


def test_largest_contains_all():
    block = SearchSpace.from_config('mnasnet').stages[1][1]
    largest = block.largest
    assert block.spec((0, ) * 6) is None
    for choice in block.choices():
        spec = block.spec(choice)
        if spec:
            assert spec.mid_channels <= largest.mid_channels
            assert spec.kernel_size <= largest.kernel_size
            assert spec.se_channels <= largest.se_channels
            assert spec.nl_channels <= largest.nl_channels


def test_options_may_come_in_any_order_and_single():
    a = SearchSpace.from_config(
        changed(kernel_size=[5, 3], nl_stride=[1, 2], expand_ratio=(6, 0, 3)))
    assert a == SearchSpace.from_config(TINY_SPACE)
    block = SearchSpace.from_config(changed(kernel_size=3)).stages[1][0]
    assert block.kernel_size == (3, )
    fixed = SearchSpace.from_config(changed(nl_ratio=0.25)).stages[1][0]
    assert fixed.nl == (True, ) and fixed.nl_ratio == (0.25, )
    none = SearchSpace.from_config(changed(nl_ratio=0)).stages[1][0]
    assert none.nl == (False, ) and none.nl_stride == (1, )


@given(random_spaces())
def test_random_spaces(config):
    try:
        space = SearchSpace.from_config(config)
    except ValueError as e:
        assert 'no choices' in str(e) or 'the same block' in str(e)
        return
    for block in space.blocks:
        assert set(block.options) == set(DECISIONS)
        for choice in itertools.islice(block.choices(), 50):
            spec = block.spec(choice)
            assert spec is None or spec.in_channels == block.in_channels
    assert space.arch([(0, ) * 6] * len(space.blocks)).stages


@pytest.mark.parametrize('config, words', [
    ('imagenet', ["'imagenet'", "'mnasnet'"]),
    (dict(stages=[]), ['stages', 'at least one']),
    (dict(TINY_SPACE, width=2), ['width']),
    (changed(depth=0), ['stage 2', 'depth is 0']),
    (changed(kernels=3), ['stage 2', 'kernels', 'kernel_size']),
    (changed(channels=8, stride=1), ['stage 2', 'one stage', 'depth']),
    (changed(kernel_size=[3, 4]), ['stage 2', 'block 0: kernel_size is 4']),
    (changed(kernel_size=[3, 3]), ['kernel_size', 'differ']),
    (changed(kernel_size=[]), ['kernel_size', 'differ']),
    (changed(expand_ratio=[1, 6]), ['expand_ratio', 'no expand']),
    (changed(expand_ratio=0), ['expand_ratio 0 alone']),
    (changed(expand_ratio=[3, 3.01]), ['expand_ratio 3 and 3.01', 'same']),
    (changed(se_ratio=[0.01, 0.02]), ['se_ratio 0.01 and 0.02', 'same']),
    (changed(se_ratio=[0, 1.5]), ['se_ratio is 1.5']),
    (changed(nl_ratio=[0, 0.01]), ['nl_ratio 0.01', 'leaves no channel']),
    (changed(nl_ratio=[0.25, 0.26]), ['nl_ratio 0.25 and 0.26', 'same']),
    (changed(nl_stride=[3, 2]), ['nl_stride 3 is no multiple of 2']),
    (changed(nl_stride=[0, 1]), ['nl_stride 1 is no multiple of 0']),
    (changed(nl_stride=[0]), ['nl_stride is 0']),
])
def test_bad_spaces(config, words):
    with pytest.raises(ValueError) as error:
        SearchSpace.from_config(config)
    for word in words:
        assert word in str(error.value)


def test_space_without_choices():
    fixed = dict(kernel_size=3, expand_ratio=3, se_ratio=0, nl_ratio=0, nl_stride=1)
    space = dict(TINY_SPACE, stages=[dict(s, **fixed) for s in TINY_SPACE['stages']])
    with pytest.raises(ValueError, match='no choices'):
        SearchSpace.from_config(space)


def test_default_is_not_touched():
    before = copy.deepcopy(MNASNET_SPACE)
    SearchSpace.from_config('mnasnet')
    assert before == MNASNET_SPACE

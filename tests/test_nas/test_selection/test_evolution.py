# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Trying candidates: the best, each once, none that is not allowed."""
import itertools
from collections import Counter

import torch

from autonl_mm.nas.selection.evolution import (
    evolution_search,
    loss_order,
    mean_loss,
)

BLOCKS, OPTIONS, BATCHES = 6, 4, 16


class Candidates:
    """Subnets of 6 blocks of 4 options, whose losses are a table's sums."""

    def __init__(self, seed, limit=100):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.rand(BLOCKS, OPTIONS, generator=generator)
        self.noise = torch.rand(BATCHES, generator=generator)
        self.generator = generator
        self.limit = limit
        self.tried = []

    def sample(self):
        numbers = torch.randint(OPTIONS, (BLOCKS, ), generator=self.generator)
        return [(n, ) for n in numbers.tolist()]

    def allowed(self, subnet):
        return sum(n for n, in subnet) <= self.limit

    def loss(self, subnet):
        return sum(self.table[i, n].item() for i, (n, ) in enumerate(subnet))

    def losses(self, subnets, start, stop):
        if start == 0:
            self.tried += map(tuple, subnets)
        return [[self.loss(subnet) + n for n in self.noise[start:stop].tolist()]
                for subnet in subnets]

    def search(self, candidates, start=((0, ), ) * BLOCKS):
        return evolution_search(
            list(start), self.sample, self.allowed, tuple, self.losses, [1] * BATCHES,
            candidates, self.generator)


def test_finds_what_is_best():
    for seed in range(5):
        space = Candidates(seed)
        best, before, loss = space.search(400)
        # of 4096 subnets it tries a tenth
        every = sorted(
            space.loss([(n, ) for n in numbers]) for numbers in
            itertools.product(range(OPTIONS), repeat=BLOCKS))
        assert space.loss(best) <= every[3]
        noise = space.noise.mean().item()
        assert abs(loss - noise - space.loss(best)) < 1e-5
        assert abs(before - noise - space.loss([(0, )] * BLOCKS)) < 1e-5


def test_tries_each_once_and_only_what_is_allowed():
    space = Candidates(0, limit=6)
    best, _, _ = space.search(200)
    assert len(space.tried) == len(set(space.tried)) == 201
    assert all(map(space.allowed, space.tried))
    assert space.allowed(best)


def test_a_first_that_is_best_stays():
    space = Candidates(1)
    start = [(n, ) for n in space.table.argmin(1).tolist()]
    best, before, loss = space.search(100, start)
    assert best == start and before == loss


def test_ends_where_there_are_no_more():
    space = Candidates(2, limit=1)  # 7 subnets, hard to find
    space.search(50)
    assert 1 <= len(space.tried) <= 7
    space = Candidates(2, limit=-1)
    best, before, loss = space.search(20)
    assert best == [(0, )] * BLOCKS and before == loss


def test_halving():
    space = Candidates(3)
    tried = []
    losses = space.losses

    def watched(subnets, start, stop):
        tried.extend([(start, stop)] * len(subnets))
        return losses(subnets, start, stop)

    space.losses = watched
    space.search(128)
    parts = Counter(tried)
    # 16 batches: all, halves, and at last as many as survive; the first too
    whole = parts.pop((0, BATCHES))
    assert whole == 1
    assert parts == {
        (0, 1): 64 + 2 * 32, (1, 2): 32 + 2 * 16, (2, 4): 16 + 2 * 8,
        (4, 8): 8 + 2 * 8, (8, 16): 8 + 2 * 8}


def test_halving_of_few_batches():
    """No candidate is dropped without a new batch."""
    space = Candidates(3)
    space.noise = space.noise[:8]
    parts, losses = Counter(), space.losses

    def watched(subnets, start, stop):
        parts.update([(start, stop)] * len(subnets))
        return losses(subnets, start, stop)

    space.losses = watched
    evolution_search(
        [(0, )] * BLOCKS, space.sample, space.allowed, tuple, space.losses, [1] * 8,
        128, space.generator)
    assert parts.pop((0, 8)) == 1
    assert parts == {(0, 1): 64 + 2 * 32, (1, 2): 32 + 2 * 16, (2, 4): 16 + 2 * 8,
                     (4, 8): 8 + 2 * 8}


def test_a_loss_that_is_not_a_number_is_the_worst():
    space = Candidates(5)
    losses = space.losses
    space.losses = lambda subnets, start, stop: [
        [float('nan')] * len(row) if n[0] == (0, ) else row
        for n, row in zip(subnets, losses(subnets, start, stop))]
    best, _, _ = space.search(200)
    assert best[0] != (0, )


def test_a_batch_that_no_candidate_has_a_finite_loss_on_does_not_decide():
    expected = Candidates(6).search(200)
    space = Candidates(6)
    losses = space.losses
    space.losses = lambda subnets, start, stop: [
        [float('inf') if i == 3 else loss for i, loss in enumerate(row, start)]
        for row in losses(subnets, start, stop)]
    best, _, loss = space.search(200)
    noise = [n for i, n in enumerate(space.noise.tolist()) if i != 3]
    assert best == expected[0]
    assert abs(loss - sum(noise) / len(noise) - space.loss(best)) < 1e-5


def test_mean_loss():
    """A mean over images: a smaller last batch counts less."""
    inf, nan = float('inf'), float('nan')
    assert mean_loss([1, 4], [8, 4]) == 2
    assert mean_loss([1], [8, 4]) == 1
    assert mean_loss([nan, 1, 4], [8, 8, 4]) == 2
    assert mean_loss([nan, inf], [8, 8]) != mean_loss([nan, inf], [8, 8])
    # 8 images at 3 and one at 0, or 8 at 2 and one at 7
    rows = [[nan, nan], [2, nan], [2, 7], [3, 0]]
    assert sorted(rows, key=lambda row: loss_order(row, [8, 1])) == [
        rows[2], rows[3], rows[1], rows[0]]

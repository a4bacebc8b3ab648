# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Goals, what was tried, and the front."""
import json

import numpy as np
import pytest
import torch
from search_spaces import TINY_SPACE, latencies

from autonl_mm.cost import LatencyTable, ParamsModel
from autonl_mm.experiments.ranking import rank_correlations
from autonl_mm.nas import AutoNLSuperNet
from autonl_mm.nas.selection.choosing import (
    MIN_DIFFERENCE,
    best_candidates,
    best_finalist,
    choose,
    make_goal,
    pareto_front,
    predicted_candidates,
)
from autonl_mm.nas.selection.loss_cache import LossCache
from autonl_mm.nas.selection.loss_predictor import LossPredictor

SUPERNET = AutoNLSuperNet(TINY_SPACE, input_shape=32, num_classes=2)
SPACE = SUPERNET.space
TABLES = dict(
    macs=SUPERNET.cost_table, params=SUPERNET.table_of(ParamsModel()),
    latency=SUPERNET.table_of(LatencyTable(latencies(SUPERNET))))
BATCHES = 8
IMAGES = [4] * BATCHES


class Losses:
    """The fewer LightNLs the lower; counts what it computes."""

    def __init__(self):
        self.computed = []

    def __call__(self, subnets, start, stop):
        self.computed += [(repr(n), i) for n in subnets for i in range(start, stop)]
        return [[sum(c[3] for c in n) + TABLES['macs'].cost_of(n) * 1e-9 + 0.1 * i
                 for i in range(start, stop)] for n in subnets]


def search(goal, cache, seed=0, candidates=60):
    best, _, loss = choose(goal, SPACE, cache.losses, IMAGES, candidates, seed)
    return best, loss


def test_no_finite_loss(tmp_path):
    goal = make_goal(TABLES, {}, 'macs', 500e3)

    def losses(subnets, start, stop):
        return [[float('nan')] * (stop - start) for _ in subnets]

    with pytest.raises(ValueError, match='no candidate of macs_500k has a finite loss'):
        choose(goal, SPACE, losses, IMAGES, 20, 0)


@pytest.mark.parametrize('maxima, cost, target', [
    ({}, 'macs', 500e3), ({}, 'params', 8e3), (dict(params=9e3), 'macs', 450e3),
    (dict(latency=600, params=9e3), '', None), (dict(macs=600e3), '', None)])
def test_what_is_chosen_meets_the_goal(maxima, cost, target, tmp_path):
    goal = make_goal(TABLES, maxima, cost, target)
    losses = Losses()
    tried = LossCache(tmp_path / 'losses.json', losses, {}, IMAGES)
    best, loss = search(goal, tried)
    for name, limit in maxima.items():
        assert TABLES[name].cost_of(best) <= limit
    if target:
        assert abs(TABLES[cost].cost_of(best) / target - 1) <= 0.02
    for subnet, _ in tried:
        assert goal.allows(subnet)
    # the best of all candidates that were tried on all batches
    whole = [sum(own) / BATCHES for _, own in tried if len(own) == BATCHES]
    assert loss == min(whole)
    assert len(losses.computed) == len(set(losses.computed))


@pytest.mark.parametrize('maxima, cost, target, words', [
    (dict(params=10), '', None, '--max params=10 is below the cheapest'),
    ({}, 'macs', 1e9, 'a target of 1e\\+09 MACs is outside of the search space'),
])
def test_goals_that_cannot_be_met(maxima, cost, target, words):
    with pytest.raises(ValueError, match=words):
        make_goal(TABLES, maxima, cost, target)


def test_a_goal_that_nothing_meets(tmp_path, monkeypatch):
    monkeypatch.setattr('autonl_mm.nas.selection.choosing.TRIES', 50)
    low = TABLES['params'].range()[0]
    goal = make_goal(TABLES, dict(params=low), 'macs', 700e3)
    with pytest.raises(ValueError, match='none of 50 sampled subnets meets macs_700'):
        search(goal, LossCache(tmp_path / 'losses.json', Losses(), {}, IMAGES))


class KilledError(Exception):
    pass


def test_goes_on_after_a_kill(tmp_path):
    """Nothing is computed twice, and the result is the same."""
    goals = [make_goal(TABLES, {}, 'macs', cost) for cost in (450e3, 500e3)]
    whole = Losses()
    tried = LossCache(tmp_path / 'whole.json', whole, dict(seed=1), IMAGES)
    expected = [search(goal, tried) for goal in goals]
    done = []
    for calls in (1, 4, 7, 100):
        losses, count = Losses(), iter(range(calls))

        def killed(*args, losses=losses, count=count):
            if next(count, None) is None:
                raise KilledError
            return losses(*args)

        tried = LossCache(tmp_path / 'losses.json', killed, dict(seed=1), IMAGES)
        try:
            assert [search(goal, tried) for goal in goals] == expected
        except KilledError:
            assert calls < 100
        done += losses.computed
    assert sorted(done) == sorted(whole.computed)
    assert json.loads((tmp_path / 'losses.json').read_text()) == json.loads(
        (tmp_path / 'whole.json').read_text())


def test_what_was_tried_otherwise_is_not_used(tmp_path):
    path = tmp_path / 'losses.json'
    LossCache(path, Losses(), dict(seed=1, batches=8), IMAGES).losses(
        [[(0, ) * 6]], 0, 1)
    with pytest.raises(ValueError, match='tried with seed 1, now 2: remove it'):
        LossCache(path, Losses(), dict(seed=2, batches=8), IMAGES)
    with pytest.raises(ValueError, match='tried with batches 8, now None: remove it'):
        LossCache(path, Losses(), dict(seed=1), IMAGES)
    path.write_text('[]')
    with pytest.raises(ValueError, match='is not a file of losses of candidates'):
        LossCache(path, Losses(), {}, IMAGES)


NAME = ';'.join(','.join('0' * len(block.shape)) for block in SPACE.blocks)


@pytest.mark.parametrize('change, words', [
    (dict(fingerprint=[1]), r'fingerprint is \[1\], expected a dict'),
    (dict(losses=[1]), r'losses is \[1\], expected a dict'),
    (dict(losses={NAME: 1}), r"losses\['.*'\] is 1, expected a list"),
    (dict(losses={NAME: [1, '2']}), r"losses\['.*'\]\[1\] is '2', expected a number"),
    (dict(losses={NAME: [[1]]}), r"losses\['.*'\]\[0\] is \[1\], expected a number"),
    (dict(losses={'': []}), "losses has '', which is no subnet"),
    (dict(losses={'a': [1]}), "losses has 'a', which is no subnet"),
    (dict(losses={NAME.replace(',', ', '): [1]}), 'which is no subnet'),
    (dict(losses={NAME[:-2]: [1]}), 'which is no subnet'),
    (dict(losses={f'9{NAME[1:]}': [1]}), 'which is no subnet'),
    (dict(losses={f'-1{NAME[1:]}': [1]}), 'which is no subnet'),
    (dict(more=1), 'more is unknown'),
])
def test_a_broken_record_of_tried_networks(change, words, tmp_path):
    path = tmp_path / 'tried.json'
    record = dict(fingerprint={}, losses={NAME: [1, 2.5]})
    path.write_text(json.dumps(record))
    assert len(list(LossCache(path, Losses(), {}, IMAGES, SPACE))) == 1
    path.write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=rf'^\S*tried\.json is .*{words}'):
        LossCache(path, Losses(), {}, IMAGES, SPACE)


def test_pareto_front():
    costs, losses = [3, 1, 2, 2, 4], [1, 5, 3, 4, 1]
    assert pareto_front(costs, losses) == [1, 2, 0]
    assert pareto_front([], []) == []


def test_a_loss_that_is_not_a_number_is_the_last_finalist(tmp_path):
    goal = make_goal(TABLES, {'macs': 1e12})
    subnets = sampled(40)
    numbers = {repr(n): [float('nan') if i % 3 == 0 else i] for i, n in
               enumerate(subnets)}
    tried = LossCache(
        tmp_path / 'losses.json',
        lambda some, start, stop: [numbers[repr(n)] for n in some], {}, IMAGES)
    tried.losses(subnets, 0, 1)
    found = [numbers[repr(n)][0] for n in best_candidates(goal, SPACE, tried, 100)]
    numbered = [n for n in found if n == n]
    assert 1 < len(numbered) < len(found)
    assert found[:len(numbered)] == sorted(numbered)


def test_finalists_are_the_best_that_the_goal_allows(tmp_path):
    goals = [make_goal(TABLES, {}, 'macs', macs) for macs in (450e3, 550e3)]
    tried = LossCache(tmp_path / 'losses.json', Losses(), {}, IMAGES)
    for goal in goals:
        best, loss = search(goal, tried)
        found = best_candidates(goal, SPACE, tried, 4)
        assert found[0] == best and len(found) == 4
        assert all(goal.allows(c) for c in found)
        rows = {repr(c): losses for c, losses in tried}
        order = [(-len(rows[repr(c)]), sum(rows[repr(c)])) for c in found]
        assert order == sorted(order)
        assert order[0] == (-BATCHES, pytest.approx(loss * BATCHES))
        every = best_candidates(goal, SPACE, tried, 10**6)
        assert every[:4] == found

        def apart(a, b):
            return sum(x != y for x, y in zip(SPACE.specs(a), SPACE.specs(b)))

        for i, c in enumerate(every):
            assert all(apart(c, other) >= MIN_DIFFERENCE for other in every[:i])
        # whatever was left out is a near duplicate of a finalist
        for c, losses in tried:
            if goal.allows(c) and losses and c not in every:
                assert min(apart(c, other) for other in every) < MIN_DIFFERENCE


def sampled(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [SUPERNET.sample_subnet(generator) for _ in range(count)]


def additive_loss(subnet):
    """A loss that each block adds to, by what it is."""
    return 2 + sum(
        0.1 if spec is None else
        0.02 * i * (spec.kernel_size == 3) + 0.01 * spec.expand_ratio - spec.nl_ratio
        for i, spec in enumerate(SPACE.specs(subnet)))


def rho(pairs):
    a, b = np.array(pairs, float).T
    return rank_correlations(a, b)[1].value


def test_the_predictor_ranks_unseen_subnets():
    known, others = sampled(60), sampled(40, seed=1)
    rows = [(SPACE.specs(c), additive_loss(c)) for c in known]
    # the costs of a group and its mean loss do not matter
    groups = [rows[:20], [(blocks, loss + 5) for blocks, loss in rows[20:]]]
    predictor = LossPredictor(groups)
    predicted = predictor([SPACE.specs(c) for c in others])
    truth = [additive_loss(c) for c in others]
    assert rho(list(zip(predicted, truth))) > 0.9
    assert rho(predictor.left_out) > 0.85
    # left out is left out: a fit that had seen the network would be nearer to it
    seen = predictor([blocks for group in groups for blocks, _ in group])
    errors = [(abs(loss - left), abs(loss - fit))
              for (loss, left), fit in zip(predictor.left_out, seen)]
    assert all(left >= fit for left, fit in errors)
    # and what is predicted of it is what a fit to the others says
    i = 7
    again = LossPredictor([rows[:i] + rows[i + 1:20], groups[1]])
    assert predictor.left_out[i][1] == pytest.approx(
        again([rows[i][0]])[0], abs=0.1 * np.std(truth))


def test_the_predictor_leaves_out_what_is_not_finite():
    rows = [(SPACE.specs(c), additive_loss(c)) for c in sampled(20)]
    bad = [(SPACE.specs(c), float('nan')) for c in sampled(5, seed=1)]
    blocks = [SPACE.specs(c) for c in sampled(5, seed=2)]
    assert LossPredictor([rows + bad, bad])(blocks) == LossPredictor([rows])(blocks)
    with pytest.raises(ValueError, match='none of the trained subnets has a finite'):
        LossPredictor([bad, []])


def test_the_fit_decides_better_than_one_loss():
    """Losses that scatter by twice as much as the subnets differ."""
    rng = np.random.default_rng(0)
    by_loss, by_fit = [], []
    for seed in range(20):
        subnets = sampled(40, seed=seed)
        truth = np.array([additive_loss(c) for c in subnets])
        losses = truth + rng.normal(0, 2 * truth.std(), len(truth))
        trained = list(zip(subnets, losses))
        predictor = LossPredictor([[(SPACE.specs(c), loss) for c, loss in trained]])
        best, loss = best_finalist(trained, predictor, SPACE)
        assert loss == losses[subnets.index(best)]
        by_fit.append(truth[subnets.index(best)] - truth.mean())
        by_loss.append(truth[losses.argmin()] - truth.mean())
    assert np.mean(by_fit) < 1.2 * np.mean(by_loss) < 0


def test_a_finalist_without_a_finite_loss_is_not_chosen():
    trained = [(c, additive_loss(c)) for c in sampled(20)]
    predictor = LossPredictor([[(SPACE.specs(c), loss) for c, loss in trained]])
    best, _ = best_finalist(trained, predictor, SPACE)
    left = [(c, float('nan') if c == best else loss) for c, loss in trained]
    assert best_finalist(left, predictor, SPACE)[0] != best
    with pytest.raises(ValueError, match='none of 1 finalists has a finite loss'):
        best_finalist([(best, float('inf'))], predictor, SPACE)


@pytest.mark.long
def test_further_finalists_are_predicted_to_be_best():
    goal = make_goal(TABLES, {}, 'macs', 500e3)
    trained = [c for c in sampled(400) if goal.allows(c)][:8]
    rows = [(SPACE.specs(c), additive_loss(c)) for c in sampled(60)]
    predictor = LossPredictor([rows])
    found = predicted_candidates(goal, SPACE, predictor, trained, 4, 0)
    assert found == predicted_candidates(goal, SPACE, predictor, trained, 4, 0)
    assert len(found) == 4 and all(goal.allows(c) for c in found)
    predicted = predictor([SPACE.specs(c) for c in found])
    assert predicted == sorted(predicted)
    others = [SPACE.specs(c) for c in sampled(400, seed=3) if goal.allows(c)]
    assert predicted[0] <= np.quantile(predictor(others), 0.1)
    for i, subnet in enumerate(found):
        for other in trained + found[:i]:
            assert sum(a != b for a, b in zip(SPACE.specs(subnet), SPACE.specs(other))
                       ) >= MIN_DIFFERENCE

# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
import torch
from search_spaces import TINY_SPACE

from autonl_mm.experiments.finalists import fit, fit_to_others, write_finalists
from autonl_mm.nas import AutoNLSuperNet

SUPERNET = AutoNLSuperNet(TINY_SPACE, input_shape=32, num_classes=2)
SPACE = SUPERNET.space


def trained(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(SUPERNET.sample_subnet(generator), float(i % 7)) for i in range(count)]


def test_what_was_written_is_fitted(tmp_path):
    groups = dict(small=trained(12), large=trained(9, seed=1))
    path = tmp_path / 'finalists.json'
    predictor = fit(list(groups.values()), SPACE)
    write_finalists(path, groups, predictor, SPACE)
    others = [subnet for subnet, _ in trained(5, seed=2)]
    assert fit_to_others(path, others, SPACE) == pytest.approx(
        predictor([SPACE.specs(subnet) for subnet in others]))


def test_a_network_knows_nothing_of_its_own_loss(tmp_path):
    rows, asked = trained(12), 3
    path = tmp_path / 'finalists.json'
    write_finalists(path, dict(all=rows), fit([rows], SPACE), SPACE)
    without = fit([rows[:asked] + rows[asked + 1:]], SPACE)
    assert fit_to_others(path, [rows[asked][0]], SPACE) == pytest.approx(
        without([SPACE.specs(rows[asked][0])]))


def test_a_file_that_is_something_else(tmp_path):
    path = tmp_path / 'finalists.json'
    for text in ('{}', '[1]', '[{"goal": "a"}]', 'no', '[]'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r'finalists\.json'):
            fit_to_others(path, [], SPACE)
    rows = trained(3)
    nan = [(subnet, float('nan')) for subnet, _ in rows]
    write_finalists(path, dict(all=nan), fit([rows], SPACE), SPACE)
    with pytest.raises(ValueError, match=r'finalists\.json.*finite loss'):
        fit_to_others(path, [], SPACE)
    write_finalists(path, dict(all=rows), fit([rows], SPACE), SPACE)
    found = json.loads(path.read_text())
    for change in (dict(subnet=found[0]['subnet'][:-1]),
                   dict(subnet=[[99] * len(c) for c in found[0]['subnet']]),
                   dict(subnet=found[0]['subnet'][::-1]), dict(arch=[])):
        path.write_text(json.dumps([found[0] | change, *found[1:]]))
        with pytest.raises(ValueError, match=r'is of another search space: \[0\]'):
            fit_to_others(path, [], SPACE)
    for change, words in (
            (dict(subnet=found[0]['subnet'][0]), r'subnet\[0\] is 0, .* a list'),
            (dict(subnet=[['0'] * 5] * 4), r"subnet\[0\]\[0\] is '0', .*integer"),
            (dict(loss='1'), r"loss is '1', expected a number"),
            (dict(arch='x'), r"arch is 'x', expected a list"),
            (dict(goal=None), r'goal is None, expected text')):
        path.write_text(json.dumps([found[0], found[1] | change, *found[2:]]))
        with pytest.raises(ValueError, match=rf'^\S*finalists\.json .*\[1\]\.{words}'):
            fit_to_others(path, [], SPACE)

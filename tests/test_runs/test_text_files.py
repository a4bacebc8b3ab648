# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What was parsed is compared with what it should be; a line names the key."""
import json

import pytest

from autonl_mm.runs.text_files import check_json

FORM = {
    'name': {'a', 'b'}, 'shape': [(range(1, 9), None), range(1, 9)], 'rows': [[int]],
    'table': {str: float}, 'on?': bool, 'inner?': {'text': str}}
GOOD = dict(name='a', shape=[None, 3], rows=[[1, -2], []], table={'x y': 1, 'z': 0.5},
            on=True, inner=dict(text=''))


def wrong(value, form=FORM):
    with pytest.raises(ValueError) as error:
        check_json(value, form, 'x.json is no table', 'remove it')
    line = str(error.value)
    assert line.startswith('x.json is no table: ') and line.endswith(': remove it')
    assert '\n' not in line and len(line) < 500
    return line[20:-11]


@pytest.mark.parametrize('change', [
    {}, dict(table={}), dict(rows=[]), dict(table=dict(x=float('nan')))])
def test_what_is_right(change):
    check_json(json.loads(json.dumps(dict(GOOD, **change))), FORM, '', '')
    for missing in ('on', 'inner'):
        check_json({k: v for k, v in GOOD.items() if k != missing}, FORM, '', '')
    check_json([GOOD, 3], [FORM, object], '', '')


@pytest.mark.parametrize('change, line', [
    (dict(name='c'), "name is 'c', expected one of a, b"),
    (dict(name=[]), 'name is [], expected one of a, b'),
    (dict(shape=[1]), 'shape is [1], expected a list of 2'),
    (dict(shape=['a', 3]), "shape[0] is 'a', expected an integer from 1 to 8 or null"),
    (dict(shape=[1, True]), 'shape[1] is True, expected an integer from 1 to 8'),
    (dict(shape=[9, 1]), 'shape[0] is 9, expected an integer from 1 to 8 or null'),
    (dict(rows=[[1], 2]), 'rows[1] is 2, expected a list'),
    (dict(rows=[[1, 1.0]]), 'rows[0][1] is 1.0, expected an integer'),
    (dict(table=[1]), 'table is [1], expected a dict'),
    (dict(table={'x y': '1'}), "table['x y'] is '1', expected a number"),
    (dict(table={'x\ny': None}), "table['x\\ny'] is None, expected a number"),
    (dict(table=dict(x=10**400)), 'expected a number'),
    (dict(on=1), 'on is 1, expected true or false'),
    (dict(inner={}), 'inner.text is missing'),
    (dict(inner=dict(text='', more=1)), 'inner.more is unknown, expected text'),
    (dict(inner=dict(text=3)), 'inner.text is 3, expected text'),
    (dict(name='a\nb' * 1000), 'expected one of a, b'),
])
def test_the_first_wrong_key_is_named(change, line):
    assert wrong(dict(GOOD, **change)).endswith(line)


def test_of_another_kind_as_a_whole():
    assert wrong([1]) == 'it is [1], expected a dict'
    assert wrong({}) == 'name is missing'
    assert wrong({}, [int]) == 'it is {}, expected a list'
    assert wrong([[GOOD], [3]], [[FORM]]) == '[1][0] is 3, expected a dict'

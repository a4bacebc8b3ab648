# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest

from autonl_mm.runs.tables import markdown_table


def test_a_table():
    assert markdown_table(['net', 'ms'], [('a|b', 1.5), ('c', 2)]).split('\n') == [
        '| net | ms |', '| --- | ---: |', r'| a\|b | 1.5 |', '| c | 2 |']


def test_a_row_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"\['b'\] has 1 cells, expected 2"):
        markdown_table(['net', 'ms'], [('a', 1), ('b', )])

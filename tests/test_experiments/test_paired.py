# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest

from autonl_mm.experiments.paired import (
    comparison_table,
    detectable_difference,
    paired_difference,
)


def test_paired_difference():
    mean, half = paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    # differences 2, 3, 1; t of two degrees of freedom is 4.303
    assert mean == pytest.approx(2)
    assert half == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_detectable_difference():
    """Quantiles of 2 degrees of freedom, 4.303 and 1.061; variances of 1 and 4."""
    values = dict(none=[1., 2., 3.], a=[3., 5., 4.], b=[1., 4., 7.])
    assert detectable_difference(values, 'none') == pytest.approx(
        (4.303 + 1.061) * (2.5 / 3)**0.5, rel=1e-3)


def test_comparison_table():
    """Equal: the interval is within the margin. No network differs from itself."""
    values = dict(none=[50.0, 52.0], conv=[50.1, 52.1], best=[51.0, 53.01])
    head, _, *rows = comparison_table(
        'step', values, 'base', ['none', 'conv'], {'MACs': ['0', '1', '2']},
        digits=1, margin=0.3).splitlines()
    assert head == ('| step | MACs | base 0 | base 1 | mean | standard deviation | '
                    'difference from none, 95% interval | '
                    'difference from conv, 95% interval |')
    assert rows == [
        '| none | 0 | 50.0 | 52.0 | 51.0 | 1.4 |  | -0.1 ± 0.0 (equal) |',
        '| conv | 1 | 50.1 | 52.1 | 51.1 | 1.4 | +0.1 ± 0.0 (equal) |  |',
        '| best | 2 | 51.0 | 53.0 | 52.0 | 1.4 | +1.0 ± 0.1 | +0.9 ± 0.1 |']
    assert comparison_table('step', dict(a=[]), 'seed', ['a']).splitlines() == [
        '| step |', '| --- |', '| a |']

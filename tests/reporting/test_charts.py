from __future__ import annotations

import numpy as np
import pytest

from segtasks.reporting.charts import line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1.0]),
        (0, 0.52, [0, 0.2, 0.4, 0.6]),
        (0, 2.6, [0, 1, 2, 3]),
        (0, 0.002, [0, 0.0005, 0.001, 0.0015, 0.002]),
        (3, 3, [1, 2, 3, 4, 5]),
        (0, 0, [0, 0.5, 1.0]),
        (-5, 5, [-5, 0, 5]),
    ],
)
def test_ticks_are_round_numbers_around_the_range(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_ticks_hold_any_range_with_few_even_steps():
    random = np.random.default_rng(0)
    for _ in range(500):
        low, high = np.sort(random.normal(size=2) * 10.0 ** random.integers(-6, 7))
        ticks = nice_ticks(low, high)
        slack = 1e-6 * (high - low)
        assert ticks[0] <= low + slack
        assert ticks[-1] >= high - slack
        assert 2 <= len(ticks) <= 7
        assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_points_lie_where_their_values_say():
    chart = line_chart("loss", [(1, 0.0), (2, 1.0), (3, 0.5)])
    points = [(chart.left, chart.bottom), ((chart.left + chart.right) / 2, chart.top), (chart.right, (chart.top + chart.bottom) / 2)]
    assert chart.lines == (" ".join(f"{x:.1f},{y:.1f}" for x, y in points),)
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1"]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]
    assert chart.last == "0.5"
    assert chart.dots[1][2] == "epoch 2: 1"


def test_a_missing_value_is_a_gap_unless_it_is_bridged():
    values = [(1, 1.0), (2, None), (3, 2.0), (4, 3.0)]
    assert [len(line.split()) for line in line_chart("loss", values).lines] == [1, 2]
    assert [len(line.split()) for line in line_chart("mIoU", values, bridge=True).lines] == [3]


def test_a_chart_without_values_is_none():
    assert line_chart("loss", []) is None
    assert line_chart("loss", [(1, None), (2, None)]) is None


def test_a_single_epoch_is_one_dot():
    chart = line_chart("loss", [(7, 0.3)], zero=True)
    assert len(chart.dots) == 1
    assert chart.left < chart.dots[0][0] < chart.right
    assert chart.top <= chart.dots[0][1] <= chart.bottom
    assert [tick.label for tick in chart.x_ticks] == ["7"]


@pytest.mark.parametrize("epochs", [2, 3, 10, 40, 41, 200, 999])
def test_epoch_ticks_start_with_the_first_are_few_and_ascend(epochs):
    ticks = [int(tick.label) for tick in line_chart("loss", [(epoch, 1.0) for epoch in range(1, epochs + 1)]).x_ticks]
    assert ticks[0] == 1
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8
    assert ticks[-1] > epochs * 0.7

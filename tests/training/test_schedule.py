import pytest
import torch
from torch.optim import lr_scheduler

from segtasks.training.schedule import learning_rate


def rates(steps, **settings):
    return [learning_rate(step, steps, **settings) for step in range(steps)]


def torch_rates(steps, lr, make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_one_cycle_is_torchs(warmup):
    def make(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=101, pct_start=warmup)

    assert rates(100, schedule="one_cycle", lr=0.02, warmup=warmup) != [0.02] * 100
    expected = torch_rates(100, 0.02, lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=100, pct_start=warmup))[
        :99
    ]
    assert rates(100, schedule="one_cycle", lr=0.02, warmup=warmup)[:99] == pytest.approx(expected, rel=1e-9)


def test_poly_and_cosine_are_torchs():
    poly = torch_rates(50, 0.1, lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9))
    assert rates(50, schedule="poly", lr=0.1, warmup=0) == pytest.approx(poly, rel=1e-9)
    cosine = torch_rates(50, 0.1, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=50))
    assert rates(50, schedule="cosine", lr=0.1, warmup=0) == pytest.approx(cosine, rel=1e-6)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_a_warm_up_rises_in_a_line_and_reaches_the_rate(schedule):
    found = rates(100, schedule=schedule, lr=1.0, warmup=0.1)
    assert found[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert found[10] == pytest.approx(1.0)
    assert min(found) > 0


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "cosine", "constant"])
def test_a_single_step_has_a_positive_rate(schedule):
    assert 0 < learning_rate(0, 1, schedule=schedule, lr=0.5, warmup=0.1) <= 0.5

import pytest
import torch
from torch import nn

from segtasks.training.ema import averaged


def test_averages_follow_the_formula_with_a_rising_decay():
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.9)
    expected = None
    for update in range(40):
        with torch.no_grad():
            model.weight.fill_(float(update))
        average.update_parameters(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = float(update) if expected is None else decay * expected + (1 - decay) * update
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_batch_norm_statistics_are_averaged_and_its_counter_is_copied():
    model = nn.BatchNorm1d(1)
    average = averaged(model, 0.5)
    for value in (1.0, 3.0):
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(int(value))
        average.update_parameters(model)
    decay = min(0.5, 2 / 11)
    assert float(average.module.running_mean) == pytest.approx(decay * 1.0 + (1 - decay) * 3.0)
    assert int(average.module.num_batches_tracked) == 3

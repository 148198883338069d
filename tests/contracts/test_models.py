from __future__ import annotations

import pytest

from segtasks import plugins
from segtasks.testing import models


@pytest.mark.parametrize("check", models.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_keeps_the_contract(name, check):
    check(plugins.load("models", name))


@pytest.mark.slow
@pytest.mark.parametrize("check", models.SLOW, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_keeps_the_slow_part_of_the_contract(name, check):
    check(plugins.load("models", name))

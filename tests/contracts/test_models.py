from __future__ import annotations

import pytest

from segtasks import plugins
from segtasks.errors import MissingExtra
from segtasks.testing import models


@pytest.mark.parametrize("check", models.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_keeps_the_contract(name, check):
    keep(name, check)


@pytest.mark.slow
@pytest.mark.parametrize("check", models.SLOW, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("models"))
def test_every_model_keeps_the_slow_part_of_the_contract(name, check):
    keep(name, check)


def keep(name, check):
    module = plugins.load("models", name)
    if reason := models.exemption(module, check):
        pytest.skip(f"{name} is exempt: {reason}")
    try:
        check(module)
    except MissingExtra as error:
        pytest.skip(f"an extra is missing: {error}")

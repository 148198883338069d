from __future__ import annotations

import pytest

from segtasks import plugins
from segtasks.testing import metrics


@pytest.mark.parametrize("check", metrics.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric_keeps_the_contract(name, check):
    check(plugins.load("metrics", name))

from __future__ import annotations

import pytest

from segtasks import plugins
from segtasks.testing import losses


@pytest.mark.parametrize("check", losses.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", plugins.names("losses"))
def test_every_loss_keeps_the_contract(name, check):
    check(plugins.load("losses", name))

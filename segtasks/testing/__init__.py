"""Contract checks that the author of a plug-in can import: plain functions that raise `AssertionError` with what broke.

    from segtasks.testing.models import check_model
    def test_mine():
        check_model(acme.nets.tiny)

A plug-in module may hold `SMALL`, a dict of options: the quick configuration that the checks use when none is given.
"""

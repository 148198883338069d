"""Metrics: counting apart from scoring, so that they add up over shards. One module is one metric: `Config` and `build(config, spec)`
-> a `_base.Metric`. Arrays in, numbers out: no files, no network. `segtasks.testing.metrics` checks that contract."""

"""Losses. One module is one loss: `Config` and `build(config, spec, class_pixels)` -> a callable that takes logits (N, C, H, W) and
target (N, H, W) int64 and gives a scalar. `segtasks.testing.losses` checks that contract."""

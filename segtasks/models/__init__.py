"""Architectures. One module is one model: `Config` and `build(config, num_classes, in_channels=3) -> nn.Module`, whose forward takes
float NCHW of any size and gives logits NCHW of the same height and width. `segtasks.testing.models` checks that contract."""

"""segtasks: a distributed batch workflow for image segmentation. Layers and rules: docs/design.md."""

__version__ = "0.1.0"

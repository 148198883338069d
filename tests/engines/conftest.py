"""The tiny trained model of the stage tests."""

from tests.stages.conftest import model

__all__ = ["model"]

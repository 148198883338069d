"""The command line. Each verb is loaded when it is called, so that `segtasks --help` imports neither torch, Ray nor Prefect."""

from segtasks.cli.entry import main

__all__ = ["main"]

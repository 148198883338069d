"""Random numbers as arithmetic: the same key gives the same numbers in every process, on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_seed(*key: int | str) -> int:
    """A 64-bit seed from the parts of `key`; Python's own `hash()` differs between processes."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `key`, for example `generator(seed, epoch, image_id)`."""
    return np.random.Generator(np.random.PCG64(stable_seed(*key)))

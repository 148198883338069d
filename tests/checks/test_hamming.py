from __future__ import annotations

import time

import numpy as np
import pytest

from segtasks.checks import hamming
from segtasks.checks.hamming import near_pairs


def found(hashes: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    pairs = [
        (min(left, right), max(left, right), bits)
        for chunk in near_pairs(hashes, distance)
        for left, right, bits in zip(*(part.tolist() for part in chunk))
    ]
    return sorted(pairs)


def by_comparing_all(hashes: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return [(left, right, int(bits[left, right])) for left, right in np.argwhere(np.triu(bits <= distance, 1)).tolist()]


def crowded(count: int, flips: int, seed: int = 0) -> np.ndarray:
    """Distinct hashes around a few centres, so that there are pairs at every small distance."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 1 << 64, 8, dtype=np.uint64)[random.integers(0, 8, count)]
    for _ in range(flips):
        hashes ^= np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
    return random.permutation(np.unique(hashes))


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 5, 8, 11, 16])
def test_pairs_are_those_that_a_comparison_of_all_finds(distance: int) -> None:
    hashes = crowded(400, 4)
    pairs = found(hashes, distance)
    assert pairs == by_comparing_all(hashes, distance)
    assert bool(pairs) == (distance >= 2)


def test_the_pairs_do_not_depend_on_how_many_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = crowded(300, 3)
    whole = found(hashes, 4)
    monkeypatch.setattr(hamming, "candidates_at_once", 7)
    assert found(hashes, 4) == whole


def test_few_hashes_have_no_pairs() -> None:
    assert found(np.zeros(0, np.uint64), 4) == []
    assert found(np.array([5], np.uint64), 4) == []
    assert found(np.array([0, (1 << 64) - 1], np.uint64), 16) == []


@pytest.mark.parametrize("distance", [4, 8])
def test_a_hundred_thousand_random_hashes_take_seconds_and_no_planted_pair_is_missed(distance: int) -> None:
    random = np.random.default_rng(distance)
    hashes = random.integers(0, 1 << 64, 100_000, dtype=np.uint64)
    for pair in range(100):
        flips = sum(1 << int(bit) for bit in random.choice(64, distance, replace=False))
        hashes[2 * pair + 1] = np.uint64(int(hashes[2 * pair]) ^ flips)
    started = time.perf_counter()
    pairs = found(hashes, distance)
    assert time.perf_counter() - started < 20  # 0.2 and 1.2 s measured; comparing all pairs would take minutes
    assert {(2 * pair, 2 * pair + 1, distance) for pair in range(100)} <= set(pairs)
    assert len(pairs) < 110

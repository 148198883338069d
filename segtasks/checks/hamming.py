"""Pairs of 64-bit hashes that differ in a few bits, found without comparing all pairs.

Multi-index search (Norouzi, Punjani, Fleet 2012): of d // 2 + 1 bands of bits, two hashes that differ in d bits or fewer differ in at
most one bit in at least one band. So each band is sorted, and looked up as it is and with each of its bits turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]
candidates_at_once = 1 << 22  # 200 MB of indices and distances


def near_pairs(hashes: U64, distance: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Indices (left, right) of pairs that differ in at most `distance` bits, and in how many. Each pair comes once, in some order.

    Give distinct hashes: n equal ones are n * (n - 1) / 2 pairs.
    """
    bands = _bands(distance // 2 + 1)
    for number, band in enumerate(bands):
        for left, right in _candidates(_part(hashes, band), band):
            differing = hashes[left] ^ hashes[right]
            bits = np.bitwise_count(differing)
            close = bits <= distance
            for earlier in bands[:number]:  # a pair that an earlier band has found
                close[close] &= np.bitwise_count(_part(differing[close], earlier)) > 1
            if close.any():
                yield left[close], right[close], bits[close].astype(np.int64)


def _bands(count: int) -> list[tuple[int, int]]:
    """Lowest bit and width of each band."""
    edges = [64 * number // count for number in range(count + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]


def _part(hashes: U64, band: tuple[int, int]) -> U64:
    low, width = band
    return (hashes >> np.uint64(low)) & np.uint64((1 << width) - 1)


def _candidates(values: U64, band: tuple[int, int]) -> Iterator[tuple[Ints, Ints]]:
    """Pairs whose values differ in at most one bit."""
    order = np.argsort(values, kind="stable")
    kept = values[order]
    distinct, first = np.unique(kept, return_index=True)
    ends = np.append(first[1:], len(kept))
    same = np.searchsorted(distinct, kept)
    yield from _expanded(order, np.arange(len(kept)), np.arange(1, len(kept) + 1), ends[same])
    for bit in range(band[1]):
        turned = np.uint64(1 << bit)
        clear = np.flatnonzero((kept & turned) == 0)  # so that each pair is looked at from one side
        wanted = kept[clear] | turned
        at = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
        there = distinct[at] == wanted
        at = at[there]
        yield from _expanded(order, clear[there], first[at], ends[at])


def _expanded(order: Ints, rows: Ints, starts: Ints, stops: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Every row with each of the places from its start to its stop, a bounded number at a time."""
    lengths = stops - starts
    some = lengths > 0
    rows, starts, lengths = rows[some], starts[some], lengths[some]
    totals = np.cumsum(lengths)
    begin = 0
    while begin < len(rows):
        before = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, before + candidates_at_once, side="right")))
        part = lengths[begin:end]
        within = np.arange(int(part.sum())) - np.repeat(np.cumsum(part) - part, part)
        yield order[np.repeat(rows[begin:end], part)], order[np.repeat(starts[begin:end], part) + within]
        begin = end

"""Splits chosen by a keyed hash: an image's split depends on its group (or its id), the shares and the seed, and on nothing else,
so that images that come or go move no other, and the images of a group stay together.

How far it is from the shares is a matter of luck: of n groups a share p gets p*n, give or take sqrt(n*p*(1-p)); with 10,000 groups
0.1 is 0.1 +- 0.003, with 50 it is 0.1 +- 0.04. Groups of very different sizes count as fewer: (sum of sizes)^2 / (sum of squares).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate

from segtasks.errors import InputError
from segtasks.readers._base import SourceItem


def split_of(name: str, shares: Mapping[str, float], seed: int) -> str:
    """The split of a group or image: where its hash, as a number from 0 to 1, falls among the shares in order of their names."""
    key = f"segtasks split {seed}".encode()
    at = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), "big") / 2**64
    splits = sorted(split for split in shares if shares[split] > 0)  # not in the order written: equal settings give equal splits
    bounds = accumulate(shares[split] for split in splits)
    return next((split for split, bound in zip(splits, bounds, strict=True) if at < bound), splits[-1])


def with_splits(items: Iterable[SourceItem], shares: Mapping[str, float], seed: int, *, all_of_them: bool) -> Iterator[SourceItem]:
    """Give a split to items that have none, or to all of them. `InputError` where only a part of a group has one of its own."""
    given: set[str] = set()
    chosen: set[str] = set()
    for item in items:
        own = bool(item.split) and not all_of_them
        if item.group_id and not all_of_them:
            (given if own else chosen).add(item.group_id)
            if item.group_id in (chosen if own else given):
                raise InputError(
                    f"the source gives some images of group {item.group_id!r} a split and others ({item.image_id}) none, so that `splits` "
                    "would tear it apart; needed: a split for all of them, or resplit=true"
                )
        yield item if own else replace(item, split=split_of(item.group_id or item.image_id, shares, seed))

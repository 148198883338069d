"""What only a look across all images shows: the same picture twice, nearly the same one, one group in two splits.

Works on columns of a few dozen bytes an image: 10^6 images take about 150 MB beside their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtasks.checks.config import CheckSettings, Finding
from segtasks.checks.hamming import near_pairs

Ints = NDArray[np.int64]
named = 3  # other images that a finding names


@dataclass(frozen=True)
class Columns:
    """One value an image, in one order."""

    image_ids: Sequence[str]
    splits: Ints  # index into `split_names`
    split_names: Sequence[str]
    groups: Ints  # index into `group_names`, -1: none
    group_names: Sequence[str]
    pixels: NDArray[np.uint64]  # n x 2: the first 128 bits of the pixels' hash
    files: NDArray[np.uint64]  # n x 2: the same of the file's bytes
    phash: NDArray[np.uint64]
    std: NDArray[np.float32]

    def split_of(self, image: int) -> str:
        return self.split_names[int(self.splits[image])]

    def finding(self, kind: str, image: int, what: str, others: Sequence[int] = ()) -> Finding:
        ids = tuple(str(self.image_ids[other]) for other in others[:named])
        return Finding(kind=kind, image_id=str(self.image_ids[image]), split=self.split_of(image), what=what, others=ids)

    def ranks(self) -> Ints:
        """Of each split: 0 the largest. Leakage is told of the image in the smaller split, which is the one to evaluate on."""
        sizes = np.bincount(self.splits, minlength=len(self.split_names))
        ranks = np.empty(len(sizes), np.int64)
        ranks[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
        return ranks


def duplicates(columns: Columns) -> Iterator[Finding]:
    """One finding a group of images with equal pixels, whatever file format they are in. Images of one colour have their own finding."""
    ranks = columns.ranks()
    for members in _equal_rows(columns.pixels, columns.std > 0):
        members = members[np.argsort(-ranks[columns.splits[members]], kind="stable")]
        first, others = int(members[0]), members[1:].tolist()
        equal_files = bool((columns.files[members] == columns.files[first]).all())
        splits = sorted({columns.split_of(member) for member in members.tolist()})
        copies = f"{len(members)} images have the same {'bytes' if equal_files else 'pixels in other bytes'}"
        if len(splits) > 1:
            yield columns.finding("duplicate_across_splits", first, f"{copies}, in {', '.join(splits)}", others)
        else:
            yield columns.finding("duplicate_in_split", first, copies, others)


@dataclass(frozen=True)
class NearDuplicates:
    """Findings across splits, and how many images of each split look like another one of it."""

    findings: list[Finding]
    in_split: dict[str, int]


def near_duplicates(columns: Columns, settings: CheckSettings) -> NearDuplicates:
    """Images that look like others: across splits one finding an image of the smaller split, within a split a number.

    Nearly constant images are left out: their hash is of noise.
    """
    chosen = np.flatnonzero(columns.std >= settings.constant_std)
    hashes, which = np.unique(columns.phash[chosen], return_inverse=True)
    members = chosen[np.argsort(which, kind="stable")]
    ends = np.cumsum(np.bincount(which, minlength=len(hashes)))
    found = _Near(columns, hashes, members, np.append(0, ends))
    found.within_hashes()
    for left, right, bits in near_pairs(hashes, settings.near_distance):
        found.between(left, right, bits)
    return NearDuplicates(list(found.findings()), found.in_split())


class _Near:
    """Pairs of hashes become pairs of images only where two splits meet; of the others it is noted that they have a neighbour."""

    def __init__(self, columns: Columns, hashes: NDArray[np.uint64], members: Ints, ends: Ints) -> None:
        self._columns, self._members, self._ends = columns, members, ends
        count, splits = len(hashes), len(columns.split_names)
        self._ranks = columns.ranks()
        owner = np.repeat(np.arange(count), np.diff(ends))
        self._has = np.zeros((splits, count), np.bool_)  # hash x split
        self._has[columns.splits[members], owner] = True
        self._several = np.zeros((splits, count), np.bool_)  # images that share the hash inside a split
        places, sizes = np.unique(columns.splits[members] * count + owner, return_counts=True)
        self._several.reshape(-1)[places[sizes > 1]] = True
        self._neighbour = self._several.copy()
        self._splits_of, self._first_split = self._has.sum(axis=0), self._has.argmax(axis=0) if splits else np.zeros(0, np.int64)
        self._nearest: dict[int, tuple[bool, int, list[tuple[int, int]]]] = {}

    def within_hashes(self) -> None:
        """Images of one hash."""
        for place in np.flatnonzero(self._splits_of > 1).tolist():
            images = self._images(place)
            self._meet(images, images, 0)

    def between(self, left: Ints, right: Ints, bits: Ints) -> None:
        """Images of two hashes that differ in a few bits."""
        for has, neighbour in zip(self._has, self._neighbour):
            both = has[left] & has[right]
            neighbour[left[both]] = neighbour[right[both]] = True
        inside = (self._splits_of[left] == 1) & (self._splits_of[right] == 1) & (self._first_split[left] == self._first_split[right])
        for at in np.flatnonzero(~inside).tolist():
            self._meet(self._images(int(left[at])), self._images(int(right[at])), int(bits[at]))

    def _images(self, place: int) -> Ints:
        return self._members[self._ends[place] : self._ends[place + 1]]

    def _meet(self, some: Ints, others: Ints, bits: int) -> None:
        """Note, for the image in the smaller split of each pair, the one it looks like."""
        columns = self._columns
        for mine, theirs in ((some, others), (others, some)) if some is not others else ((some, others),):
            for image in mine.tolist():
                partners = theirs[self._ranks[columns.splits[theirs]] < self._ranks[columns.splits[image]]]
                partners = partners[(columns.pixels[partners] != columns.pixels[image]).any(axis=1)]  # equal ones are duplicates
                if len(partners):
                    self._note(image, partners, bits)

    def _note(self, image: int, partners: Ints, bits: int) -> None:
        groups = self._columns.groups
        same = (groups[partners] == groups[image]) & (groups[image] >= 0)
        stranger, count, nearest = self._nearest.get(image, (False, 0, []))
        kept = partners[~same][:named] if not same.all() else partners[:named]
        if stranger and same.all():
            kept = kept[:0]  # it is not the group that makes it a finding
        elif not stranger and not same.all():
            nearest = []
        nearest = sorted([*nearest, *((bits, other) for other in kept.tolist())])[:named]
        self._nearest[image] = (stranger or not same.all(), count + len(partners), nearest)

    def findings(self) -> Iterator[Finding]:
        for image, (stranger, count, nearest) in sorted(self._nearest.items()):
            bits, first = nearest[0]
            where = self._columns.split_of(first)
            more = f", and {count - 1} more" if count > 1 else ""
            kind = "near_duplicate_across_splits" if stranger else "near_duplicate_same_group"
            group = "" if stranger else f" of its group {self._columns.group_names[self._columns.groups[image]]}"
            what = f"looks like one{group} in {where or 'no split'} ({bits} of 64 bits differ){more}"
            yield self._columns.finding(kind, image, what, [other for _, other in nearest])

    def in_split(self) -> dict[str, int]:
        sizes = np.diff(self._ends)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        marked = self._neighbour[self._columns.splits[self._members], owner]
        counts = np.bincount(self._columns.splits[self._members][marked], minlength=len(self._columns.split_names))
        return {name: int(count) for name, count in zip(self._columns.split_names, counts, strict=True)}


def groups_across(columns: Columns) -> Iterator[Finding]:
    """One finding a group (video, patient, volume) with images in more than one split."""
    ranks = columns.ranks()
    grouped = np.flatnonzero(columns.groups >= 0)
    count = len(columns.split_names)
    pairs, first, sizes = np.unique(columns.groups[grouped] * count + columns.splits[grouped], return_index=True, return_counts=True)
    groups, starts = np.unique(pairs // count, return_index=True)
    for group, start, stop in zip(groups.tolist(), starts.tolist(), [*starts[1:].tolist(), len(pairs)]):
        if stop - start < 2:
            continue
        parts = sorted(range(start, stop), key=lambda at: -ranks[pairs[at] % count])
        shares = ", ".join(f"{sizes[at]:,} in {columns.split_names[pairs[at] % count] or 'no split'}" for at in reversed(parts))
        images = [int(grouped[first[at]]) for at in parts]
        yield columns.finding("group_across_splits", images[0], f"group {columns.group_names[group]}: {shares}", images[1:])


def _equal_rows(rows: NDArray[np.uint64], wanted: NDArray[np.bool_]) -> Iterator[Ints]:
    """Indices of each set of two or more equal rows (n x 2) among those wanted, ascending."""
    chosen = np.flatnonzero(wanted)
    order = chosen[np.lexsort((rows[chosen, 1], rows[chosen, 0]))]
    if len(order) < 2:
        return
    starts = np.flatnonzero(np.append(True, (rows[order[1:]] != rows[order[:-1]]).any(axis=1)))
    stops = np.append(starts[1:], len(order))
    several = stops - starts > 1
    for start, stop in zip(starts[several].tolist(), stops[several].tolist()):
        yield np.sort(order[start:stop])

"""The cases of a source as items, one a slice or one a volume: layout, channels and `dataset.json`, and of each case one header."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from segtasks.codecs.volume import HEADER_BYTES, VolumeHeader, read_volume_header
from segtasks.errors import DataFault, InputError, did_you_mean
from segtasks.readers._base import SourceItem
from segtasks.readers._listing import MISSING, is_hidden, item_size, item_version
from segtasks.readers._nifti import AXES, Axis
from segtasks.readers._nifti_classes import Described, description_file, parse
from segtasks.readers._nifti_layout import Case, Layout, add_missing, ask_for_patterns, channels_of, find_cases, known_layout, nifti_files
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
most_colors = 3
_threads = 8  # headers are asked for at the same time: a store answers slowly, not little
_batch = 64


@dataclass(frozen=True)
class Wanted:
    """Of the reader's options, those that say which items there are. `axis` is None for whole volumes."""

    images: tuple[str, ...]
    labels: str
    channels: tuple[str | int, ...]
    axis: Axis | None


class Items:
    """One listing of a source."""

    def __init__(self, source: Store, wanted: Wanted) -> None:
        self._source, self._wanted = source, wanted
        self._found: list[str] = []  # paths for messages
        self._file_channels: list[str] = []  # known when the cases are

    def scan(self, max_voxels: int) -> Iterator[SourceItem]:
        chosen = self._chosen  # an unknown channel is said before anything is read
        with ThreadPoolExecutor(_threads) as pool:
            for start in range(0, len(self.cases), _batch):
                some = self.cases[start : start + _batch]
                for case, header in zip(some, pool.map(lambda case: self._header(case, max_voxels), some)):
                    yield from self._of_case(case, header, chosen)

    @cached_property
    def description(self) -> Described:
        try:
            return parse(self._source.read(description_file), description_file)
        except FileNotFoundError:
            return Described()

    @cached_property
    def cases(self) -> list[Case]:
        cases = find_cases(self._files, self._layout)
        if not cases:
            raise ask_for_patterns(self._source.url, self._found)
        self._file_channels = channels_of(cases, self._layout)
        if not self._wanted.images:
            add_missing(cases, self.description.images)
        labelled = sum(case.label is not None for case in cases)
        log.info("%d cases, %d of them with a label, of channels %s", len(cases), labelled, ", ".join(self._file_channels) or "in one file")
        return cases

    @property
    def labels(self) -> list[str]:
        return [case.label.path for case in self.cases if case.label]

    @cached_property
    def _layout(self) -> Layout:
        layout = Layout(self._wanted.images) if self._wanted.images else known_layout([entry.path for entry in self._files])
        if layout is None:
            raise ask_for_patterns(self._source.url, self._found)
        return Layout(layout.images, self._wanted.labels or layout.labels)

    @cached_property
    def _files(self) -> list[Entry]:
        entries = list(self._source.list())
        files = nifti_files(entries)
        self._found = [entry.path for entry in files or entries if not is_hidden(entry.path)]
        return files

    @property
    def _several_files(self) -> bool:
        return bool(self.cases) and self._file_channels != [""]

    @cached_property
    def _names(self) -> list[str]:
        """Names of the channels as far as they are known: those of `dataset.json`, otherwise of the files."""
        described = list(self.description.channels)
        return described if not self._several_files or len(described) == len(self._file_channels) else self._file_channels

    @cached_property
    def _chosen(self) -> list[int]:
        """The numbers of the channels asked for; none: all. `InputError` for one that is not there."""
        files = self._file_channels if self._several_files else []
        numbers = []
        for one in self._wanted.channels:
            known = {name.lower(): at for names in (files, self._names) for at, name in enumerate(names)}
            number = one if isinstance(one, int) else known.get(one.lower(), -1)
            if number < 0 or (files and number >= len(files)):
                known_names = [*self._names, *map(str, range(len(files)))]
                advice = did_you_mean(str(one), known_names) if known_names else " Nothing here names channels: use numbers, from 0 on."
                raise InputError(f"no channel is called {one!r}.{advice}")
            numbers.append(number)
        return numbers

    def _first(self, case: Case) -> Entry:
        """The file whose header says how many slices there are, and whose path is the image's."""
        names = [self._file_channels[number] for number in self._chosen] if self._several_files else []
        return next((case.images[name] for name in (*names, *self._file_channels) if name in case.images), next(iter(case.images.values())))

    def _header(self, case: Case, max_voxels: int) -> VolumeHeader | None:
        """None where it cannot be read: `read` then says why."""
        try:
            return read_volume_header(self._source.read_range(self._first(case).path, 0, HEADER_BYTES), max_voxels)
        except (DataFault, FileNotFoundError):
            return None

    def _of_case(self, case: Case, header: VolumeHeader | None, chosen: Sequence[int]) -> Iterator[SourceItem]:
        first, several = self._first(case), self._several_files
        count = len(self._file_channels) if several else header.channels if header else 1
        numbers = list(chosen or range(count if self._wanted.axis is None else min(count, most_colors)))
        names = [self._names[number] if number < len(self._names) else str(number) for number in numbers]
        missing = ""
        if several and first.version != MISSING:
            wanted = [self._file_channels[number] for number in numbers]
            missing = next((name for name in wanted if name not in case.images), "")
            entries = [case.images[name] for name in wanted if name in case.images] or [first]
            files = [(entry.path, 0) for entry in entries]
        else:
            entries, files = [first], [(first.path, number) for number in numbers]
        details = {"case": case.name, "files": files, "channels": names, "missing": missing}
        labels = {"mask": case.label_path} if case.label_path else {}
        every: list[Entry | None] = [*entries, *([case.label] if labels else [])]
        version, size = item_version(*every), item_size(*every)
        if self._wanted.axis is None or header is None or missing:
            yield SourceItem(first.path, first.path, max(1, size), version, case.split, case.patient, labels, json.dumps(details))
            return
        axis, letter = AXES[self._wanted.axis]
        share = max(1, size // header.shape[axis])
        for at in range(header.shape[axis]):
            name, text = f"{first.path}#{letter}={at:04d}", json.dumps({**details, "slice": at})
            yield SourceItem(name, first.path, share, version, case.split, case.patient, labels, text)

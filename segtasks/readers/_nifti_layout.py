"""Which files make a case: patterns of paths, and the layouts that are known without any.

A pattern is relative to the source: `{case}`, `{channel}`, `{split}` and `{patient}` stand for a part of a name (no slash), `*` and
`?` for any, `**` for folders. `<case>` is the same as `{case}` and needs no quotes in YAML. A pattern that does not say .nii or
.nii.gz takes both. A known layout is nothing but its patterns.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from segtasks.errors import ConfigError, InputError, did_you_mean
from segtasks.readers._listing import MISSING, is_hidden
from segtasks.storage import Entry

_ENDING = r"(?i:\.nii(?:\.gz)?)"
_PIECES = re.compile(r"\{(\w*)\}|(\*\*/)|(\*\*)|(\*)|(\?)|([^{}*?]+|[{}])")
_PLACES = ("case", "channel", "split", "patient")
_SPLITS = {"Tr": "train", "Va": "val", "Val": "val", "Ts": "test"}  # as nnU-Net and the Decathlon name folders
_FAMILY = re.compile(r"images(Tr|Val?|Ts)/[^/]+$")
_NNUNET = re.compile(rf"_\d{{4}}{_ENDING}$")


@dataclass(frozen=True)
class Layout:
    """Patterns of the images (in the order of their channels) and of the labels ("" for none)."""

    images: tuple[str, ...]
    labels: str = ""


@dataclass
class Case:
    """The files of one patient's study. `images` by channel; one without a name may hold several on its fourth axis."""

    name: str
    split: str
    patient: str
    written_split: str = ""  # as the folder says it
    images: dict[str, Entry] = field(default_factory=dict)
    label: Entry | None = None
    label_path: str = ""  # also where the file is missing; "" where its split has no labels


def nifti_files(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if re.search(_ENDING + "$", entry.path) and not is_hidden(entry.path)]


def known_layout(paths: Sequence[str]) -> Layout | None:
    """The layout that the paths are in, or None."""
    family = [path for path in paths if _FAMILY.match(path)]
    if family:
        labelled = {_stem(path.partition("/")[2]) for path in paths if re.match(r"labels(Tr|Val?|Ts)/", path)}
        own = sum(_stem(path.partition("/")[2]) in labelled for path in family)
        if own == 0 and all(_NNUNET.search(path) for path in family):
            return Layout(("images{split}/{case}_{channel}",), "labels{split}/{case}")
        return Layout(("images{split}/{case}",), "labels{split}/{case}")
    for mark in "_-":
        if any(re.search(rf"(^|/)([^/]+)/\2{mark}seg{_ENDING}$", path) for path in paths):
            return Layout((f"**/{{case}}/{{case}}{mark}{{channel}}",), f"**/{{case}}/{{case}}{mark}seg")
    for images, labels in (("images/{case}", "labels/{case}"), ("images/{split}/{case}", "labels/{split}/{case}")):
        if any(_regex(images).fullmatch(path) for path in paths):
            return Layout((images,), labels)
    return None


def plain_pattern(pattern: str) -> str:
    """With its places in braces."""
    return re.sub(r"<(\w+)>", r"{\1}", pattern)


def check_pattern(pattern: str, *, needs_case: bool) -> None:
    """`ConfigError` for places that mean nothing, and for a pattern that cannot tell one case from another."""
    places = [match[1] for match in _PIECES.finditer(pattern) if match[1] is not None]
    for place in places:
        if place not in _PLACES:
            raise ConfigError(f"pattern {pattern!r} has the placeholder {place!r}.{did_you_mean(place, _PLACES)}")
    if needs_case and "case" not in places:
        raise ConfigError(f"pattern {pattern!r} has no {{case}}; needed: where the case's name is, since labels are found by it")


def find_cases(files: Sequence[Entry], layout: Layout) -> list[Case]:
    """The cases in the order of the listing. `InputError` where two files are the same channel (or label) of a case."""
    images = list(zip(map(_regex, layout.images), _pattern_channels(layout)))
    label_pattern = _regex(layout.labels) if layout.labels else None
    cases: dict[tuple[str, str], Case] = {}
    labels: dict[tuple[str, str], Entry] = {}
    for entry in files:
        if label_pattern and (match := label_pattern.fullmatch(entry.path)):
            key = _key(match, entry.path)
            _refuse_second(labels.get(key), entry, f"the label of case {key[1]!r}")
            labels[key] = entry
            continue
        for pattern, channel in images:
            if match := pattern.fullmatch(entry.path):
                key, places = _key(match, entry.path), match.groupdict()
                case = cases.setdefault(key, Case(key[1], key[0], places.get("patient") or key[1], places.get("split") or ""))
                channel = places.get("channel") or channel
                _refuse_second(case.images.get(channel), entry, f"case {key[1]!r}" + (f", channel {channel}" if channel else ""))
                case.images[channel] = entry
                break
    labelled = {split for split, name in labels if (split, name) in cases}
    if labels and not labelled:
        found = f"labels {_some(entry.path for entry in labels.values())}; images {_some(_paths(cases))}"
        raise InputError(f"no label belongs to any image: {found}; needed: {layout.labels} of a case that has an image")
    for key, case in cases.items():
        if case.split in labelled:
            case.label = labels.get(key)
            case.label_path = case.label.path if case.label else _expected_label(layout, case)
    return list(cases.values())


def add_missing(cases: list[Case], listed: Sequence[str]) -> None:
    """Images that a data set's own list names and the source has not: cases of one missing file, which are refused when read."""
    have = {(case.split, case.name) for case in cases}
    for path in listed:
        match = re.match(r"images(Tr|Val?|Ts)/", path)
        key = _SPLITS[match[1]] if match else "", _stem(posixpath.basename(path))
        if key not in have:
            cases.append(Case(key[1], key[0], key[1], images={"": Entry(path, 0, MISSING)}))


def channels_of(cases: Sequence[Case], layout: Layout) -> list[str]:
    """Names of the files' channels in order: of the patterns, then by name. [""] where a file is a whole case."""
    patterns = _pattern_channels(layout)
    found = {name for case in cases for name in case.images}
    return [*(name for name in patterns if name in found), *sorted(found - set(patterns))]


def ask_for_patterns(url: str, paths: Sequence[str]) -> InputError:
    return InputError(
        f"{url} is in no layout of NIfTI files that is known; found {_some(paths) or 'nothing'}; known: imagesTr/ and labelsTr/ (nnU-Net, "
        "Medical Segmentation Decathlon), <case>/<case>_<channel>.nii.gz with <case>_seg.nii.gz (BraTS), images/ and labels/; for any "
        "other give patterns, for example {images: [<case>/t1.nii.gz, <case>/t2.nii.gz], labels: <case>/mask.nii.gz}"
    )


def _regex(pattern: str) -> re.Pattern[str]:
    ending = next((end for end in (".nii.gz", ".nii*", ".nii") if pattern.endswith(end)), "")
    text, seen = "", set()
    for place, folders, deep, star, one, plain in _PIECES.findall(pattern.removesuffix(ending)):
        if place in _PLACES:
            text += f"(?P={place})" if place in seen else f"(?P<{place}>[^/]+)"
            seen.add(place)
        else:
            text += "(?:[^/]+/)*" if folders else ".*" if deep else "[^/]*" if star else "[^/]" if one else re.escape(plain)
    return re.compile(text + (re.escape(ending) if ending in (".nii.gz", ".nii") else _ENDING))


def _pattern_channels(layout: Layout) -> list[str]:
    """What each pattern calls its channel: its file's name without the case, or where these are equal its whole path. "" for {channel}."""
    names = [_stem(posixpath.basename(pattern)) for pattern in layout.images]
    if len(set(names)) < len(names):
        names = [_stem(pattern) for pattern in layout.images]
    return ["" if "{channel}" in name else re.sub(r"\{\w*\}", "", name).strip("_-. */?") for name in names]


def _key(match: re.Match[str], path: str) -> tuple[str, str]:
    places = match.groupdict()
    split = places.get("split") or ""
    return _SPLITS.get(split, split), places.get("case") or _stem(path)


def _refuse_second(first: Entry | None, second: Entry, what: str) -> None:
    if first is not None:
        raise InputError(
            f"{first.path} and {second.path} are both {what}; needed: one file (remove one, or give patterns that take one of them)"
        )


def _expected_label(layout: Layout, case: Case) -> str:
    """The path that a label which is not there should have; what is not certain stays a star."""
    values: Mapping[str, str] = {"case": case.name, "patient": case.patient, "split": case.written_split}
    path = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], "*"), layout.labels)
    if posixpath.dirname(layout.labels) in map(posixpath.dirname, layout.images):
        path = posixpath.join(posixpath.dirname(next(iter(case.images.values())).path), posixpath.basename(path))
    return path if re.search(_ENDING + "$", path) else path + ".nii.gz"


def _stem(path: str) -> str:
    return re.sub(_ENDING + "$|\\.nii\\*$", "", path)


def _paths(cases: Mapping[tuple[str, str], Case]) -> list[str]:
    return [entry.path for case in cases.values() for entry in case.images.values()]


def _some(paths: Iterable[str]) -> str:
    found = list(paths)
    return ", ".join(found[:3]) + (f", ... ({len(found)} files)" if len(found) > 3 else "")

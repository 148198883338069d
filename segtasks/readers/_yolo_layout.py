"""What an Ultralytics data set's YAML says: class names, and which images are in which split, wherever its paths were written."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segtasks.errors import InputError
from segtasks.readers import _yaml
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, suffix, usual_split
from segtasks.readers._objects import MOST_CLASSES
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
_usual = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_names_alone = ("classes.txt", "obj.names")  # exports of Label Studio and for Darknet: names, images/ and labels/, and no YAML
_splits = ("train", "val", "test")


@dataclass(frozen=True)
class Description:
    """`splits` has the folders and list files of each; `bases` are the folders that they may be relative to, the likeliest first."""

    file: str
    names: Mapping[int, str]
    splits: Mapping[str, tuple[str, ...]]
    bases: tuple[str, ...]


def describe(source: Store, listing: Collection[str], named: str) -> Description:
    """By the YAML of that name, of a usual one, or the only one at the source. `InputError` where there is none, or it is not sound."""
    top = [path for path in listing if "/" not in path and not is_hidden(path) and suffix(path) in (".yaml", ".yml")]
    found = [named] if named else [path for path in _usual if path in listing][:1] or top
    alone = next((path for path in _names_alone if path in listing), None)
    if not found and alone is not None and any(path.startswith("images/") for path in listing):
        names = [line.strip() for line in read_lines(source, alone) if line.strip()]
        return Description(alone, _unique(dict(enumerate(names)), alone), {"": ("images",)}, ("",))
    if len(found) != 1 or found[0] not in listing:
        some = named or ", ".join(found) or f"no YAML but {', '.join(list(listing)[:3]) or 'nothing'}"
        raise InputError(
            f"no Ultralytics data set at {source.url}: looked for data.yaml with names, train and val; found {some}"
            f"{' (missing)' if named else ''}; another YAML is named by the option data"
        )
    return _parse(source, found[0])


def images_of(source: Store, listing: Mapping[str, Entry], description: Description) -> Iterator[tuple[str, str]]:
    """Each image's path and split, an image once: one that a second split has too stays in the first."""
    images = [path for path in listing if suffix(path) in IMAGE_SUFFIXES and not is_hidden(path)]
    folders = _folders(images)
    seen: dict[str, str] = {}
    for split, places in description.splits.items():
        shared = 0
        for place in places:
            for path in _images_at(source, place, listing, images, folders, description, split):
                if path not in seen:
                    seen[path] = split
                    yield path, split or next((word for part in path.split("/")[:-1] if (word := usual_split(part))), "")
                elif seen[path] != split:
                    shared += 1
        if shared:
            log.warning("%s: %d images of %s are of another split too and stay there", description.file, shared, split)


def label_of(image: str) -> str:
    """By Ultralytics' rule: the last folder `images` is `labels`, and the suffix .txt."""
    return "/labels/".join(f"/{image}".rsplit("/images/", 1)).rsplit(".", 1)[0].lstrip("/") + ".txt"


def read_lines(source: Store, path: str) -> list[str]:
    try:
        return source.read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from error


def _images_at(
    source: Store,
    place: str,
    listing: Mapping[str, Entry],
    images: list[str],
    folders: Collection[str],
    description: Description,
    split: str,
) -> Iterator[str]:
    where = _resolve(place, description.bases, folders)
    if where is not None:
        yield from (path for path in images if not where or path.startswith(f"{where}/"))
        return
    file = _resolve(place, description.bases, listing)
    if file is None or suffix(file) != ".txt":
        message = f"{description.file}: {split or 'images'} is {place!r}, and no folder of that end has images at {source.url}"
        if split == "test" and len(description.splits) > 1:
            log.warning("%s", message)  # exports name a test split also where they have none
            return
        raise InputError(f"{message}; needed: a folder of images, or a .txt file that lists them (option data: another YAML)")
    bases = tuple(dict.fromkeys((posixpath.dirname(file), *description.bases)))
    for line in read_lines(source, file):
        if suffix(line.strip()) in IMAGE_SUFFIXES:
            yield _resolve(line.strip(), bases, listing) or posixpath.join(bases[0], *_steps(line.strip()))


def _resolve(name: str, bases: tuple[str, ...], known: Collection[str]) -> str | None:
    """The longest end of the name that is known below one of the bases."""
    steps = _steps(name)
    for start in range(max(len(steps), 1)):
        for base in bases:
            path = posixpath.join(base, *steps[start:])
            if path in known:
                return path
    return None


def _steps(name: str) -> list[str]:
    return [step for step in name.replace("\\", "/").split("/") if step not in ("", ".", "..")]


def _folders(images: list[str]) -> set[str]:
    """Every folder that has an image somewhere below it; "" is the source."""
    found: set[str] = set()
    for path in images:
        folder = posixpath.dirname(path)
        while folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found


def _parse(source: Store, file: str) -> Description:
    data = _yaml.load(source.read(file), file)
    if not isinstance(data, dict):
        raise InputError(f"{file} holds a {type(data).__name__}; needed: names, train and val")
    if data.get("kpt_shape"):
        raise InputError(f"{file} has kpt_shape: its labels are keypoints, not polygons")
    if "val" not in data and "validation" in data:
        data["val"] = data["validation"]
    splits = {split: _places(data[split], f"{file}: {split}") for split in _splits if data.get(split)}
    if not splits:
        raise InputError(f"{file} has none of train, val and test; found {', '.join(str(key) for key in data) or 'nothing'}")
    folder, path = posixpath.dirname(file), data.get("path")
    steps = _steps(path) if isinstance(path, str) else []
    below = [posixpath.join(folder, *steps[start:]) for start in range(len(steps) + 1)]  # the last is the YAML's own folder
    return Description(file, _names(data, file), splits, tuple(dict.fromkeys((*below, ""))))


def _places(value: Any, where: str) -> tuple[str, ...]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise InputError(f"{where} is {str(value)[:60]!r}; needed: a folder, a .txt file, or a list of such")
    return tuple(places)


def _names(data: Mapping[str, Any], file: str) -> Mapping[int, str]:
    names, count = data.get("names"), data.get("nc")
    if names is None and isinstance(count, int):
        if not 0 < count <= MOST_CLASSES:
            raise InputError(f"{file}: nc is {count}, and there are no names; needed: names, or a number of classes up to {MOST_CLASSES}")
        return {index: f"class_{index}" for index in range(count)}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(key).isdecimal() for key in names):
        raise InputError(f"{file}: names is {str(names)[:60]!r}; needed: a list of class names, or {{0: name, 1: name}}")
    if isinstance(count, int) and count != len(names):
        raise InputError(f"{file}: nc is {count}, and names are {len(names)}; needed: the same number")
    return _unique({int(key): str(name).strip() for key, name in sorted(names.items(), key=lambda item: int(item[0]))}, file)


def _unique(names: dict[int, str], file: str) -> dict[int, str]:
    numbers: dict[str, int] = {}
    for number, name in names.items():
        if not name or name in numbers:
            also = f"that of class {numbers[name]} too" if name in numbers else "empty"
            raise InputError(f"{file}: the name of class {number}, {name!r}, is {also}; needed: a name of its own for every class")
        numbers[name] = number
    return names

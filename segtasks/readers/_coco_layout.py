"""Where COCO's annotation files and their images lie, and the frame (height, width, orientation) that the annotations are in."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from segtasks.codecs.image import Header
from segtasks.errors import InputError, LabelError
from segtasks.readers._coco import CocoFile, ImageEntry, is_path
from segtasks.readers._listing import IMAGE_SUFFIXES, is_hidden, suffix

log = logging.getLogger(__name__)
roboflow = "_annotations.coco.json"
_splits = {"valid": "val", "validation": "val", "default": ""}  # Roboflow's and CVAT's words


@dataclass(frozen=True)
class Part:
    """One annotation file, its split, and the folders in which its images may be, the likeliest first ("" is the source)."""

    file: str
    split: str
    folders: tuple[str, ...]


def by_prefix(paths: Iterable[str], prefix: str) -> list[Part]:
    """`annotations/<prefix><name>.json`; the name is the split, but for its year: `train2017` is `train`."""
    parts = []
    for path in paths:
        folder, base = posixpath.split(path)
        if folder == "annotations" and base.startswith(prefix) and base.endswith(".json"):
            name = base.removeprefix(prefix).removesuffix(".json")
            split = split_of(name)
            parts.append(Part(path, split, _folders(name, f"images/{name}", split, f"images/{split}", "images", "")))
    return parts


def by_folder(paths: Iterable[str]) -> list[Part]:
    """Roboflow's `<split>/_annotations.coco.json`, beside its images."""
    found = [path for path in paths if posixpath.basename(path) == roboflow and path.count("/") <= 1]
    return [Part(path, split_of(posixpath.dirname(path)), (posixpath.dirname(path),)) for path in found]


def only_one(paths: Iterable[str]) -> list[Part]:
    """The one JSON at the source or in `annotations/`, where there is just one."""
    found = [path for path in paths if suffix(path) == ".json" and posixpath.dirname(path) in ("", "annotations") and not is_hidden(path)]
    return [Part(found[0], "", _folders("", "images"))] if len(found) == 1 else []


def named(file: str, images: str | None, split: str) -> Part:
    """A file that an option names; without a folder of its own, images are looked for beside it and at the source."""
    folder = posixpath.dirname(file)
    return Part(file, split, (images.strip("/"),) if images is not None else _folders(folder, f"{folder}/images".lstrip("/"), "images", ""))


def nothing_found(url: str, paths: Collection[str], looked_for: str, fields: str) -> InputError:
    jsons = [path for path in paths if suffix(path) == ".json"]
    some = ", ".join(jsons[:5]) + (f", ... ({len(jsons)} JSON files)" if len(jsons) > 5 else "")
    below = next((folder for folder, mark, _ in (path.partition("/annotations/") for path in jsons) if mark), "")
    hint = f"; is the source {url}/{below}?" if below else ""
    return InputError(
        f"no annotation file of a known name at {url}: looked for {looked_for}; found {some or 'no JSON'}{hint}; "
        f"other names are told by the option annotations, a list of {{{fields}}}"
    )


def split_of(name: str) -> str:
    name = re.sub(r"[_-]?(19|20)\d\d$", "", name)
    return _splits.get(name, name)


def resolve(name: str, folders: Sequence[str], paths: Collection[str]) -> str:
    """The path of a file by the name that the JSON has for it: the longest end of the name that is in one of the folders.

    Names may be absolute, Windows paths or URLs. Where no end is there, the place where it should be.
    """
    is_url = "://" in name
    if is_url:
        path = unquote(re.sub(r"^[^/]*//[^/]*|[?#].*$", "", name))
        name = path if is_path(path) else name
    steps = [step for step in name.replace("\\", "/").split("/") if step not in ("", ".", "..")]
    for start in range(len(steps)):
        for folder in folders:
            path = posixpath.join(folder, *steps[start:])
            if path in paths:
                return path
    return posixpath.join(folders[0], *(steps[-1:] if is_url or name.startswith("/") else steps))


def images_of(file: CocoFile, part: Part, paths: Collection[str], claimed: dict[str, str]) -> Iterator[tuple[ImageEntry, str]]:
    """Each image of the file with its path, which is written into `claimed`. An image listed twice is an `InputError`."""
    _check_some_there(file, part, paths)
    for image in file.images():
        path = resolve(image.file_name, part.folders, paths)
        if path in claimed:
            raise InputError(f"{file.path} lists {path}, which {claimed[path]} listed before; needed: each image once")
        claimed[path] = file.path
        yield image, path


def warn_unlisted(paths: Collection[str], claimed: Collection[str]) -> None:
    """Images that lie beside listed ones and are in no annotation file are not read: say how many."""
    folders = {posixpath.dirname(path) for path in claimed}
    left = [path for path in paths if path not in claimed and posixpath.dirname(path) in folders and suffix(path) in IMAGE_SUFFIXES]
    if left:
        log.warning("%d images are in no annotation file and are passed over: %s", len(left), ", ".join(left[:3]))


def frame_of(size: Sequence[Any], header: Header) -> tuple[int, int, int]:
    """Height and width of the frame that the annotations are in, and the EXIF orientation that turns it upright (1: it is).

    Most tools write the size of the image as displayed, some that of the image as stored, and draw on that: whichever fits is
    meant, and where both do, the displayed one, as where there is no size at all. `LabelError` where neither fits.
    """
    shown = header.height, header.width
    stored = shown[::-1] if header.orientation >= 5 else shown
    said = size[0], size[1]
    if said in ((None, None), shown):
        return *shown, 1
    if said == stored:
        return *stored, header.orientation
    before = f" ({stored[0]}x{stored[1]} before EXIF turns it)" if stored != shown else ""
    raise LabelError(f"the JSON says that the image is {said[0]}x{said[1]}; it is {shown[0]}x{shown[1]}{before} (height x width)")


def _check_some_there(file: CocoFile, part: Part, paths: Collection[str]) -> None:
    """`InputError` where the file lists images and none is there: another folder is meant, or a split without its images."""
    first = None
    for image in file.images():
        if resolve(image.file_name, part.folders, paths) in paths:
            return
        first = first or image
    if first is not None:
        looked = ", ".join(f"{folder}/" if folder else "the source" for folder in part.folders)
        raise InputError(
            f"none of the images of {part.file} is there: {first.file_name} was looked for in {looked}; "
            "name their folder, or only the files whose images you have, by the option annotations: [{file, images, split}]"
        )


def _folders(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip("/") for name in names))

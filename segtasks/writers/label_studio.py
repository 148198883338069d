"""Label Studio: `tasks/<split>-0001.json` to import, `label_config.xml` to set the project up with, images in `images/<split>/`.

- An object is a result of the kind `brushlabels`, which loses nothing. `shape: polygon` draws polygons along the pixels' edges, one a
  connected part; further parts of an object name the first as `parentID`.
- Without instances every class of the mask but `background` is one object. Ignored pixels are in none. Crowds have the note `crowd`.
- Results are the task's `predictions`, which people accept and correct; `results: annotations` imports them as done. A prediction's
  score is the mean of its objects', by which Label Studio sorts tasks.
- Label Studio gets the images from where `image_root` says. Its default is for local files: set LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
  to the folder written here, LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED to true, and add `images` as the project's local storage.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal
from urllib.parse import quote

from pydantic import Field

from segtasks.codecs import rle
from segtasks.codecs.outline import outlines
from segtasks.config import Config as BaseConfig
from segtasks.errors import ConfigError
from segtasks.spec import DatasetSpec
from segtasks.storage import Store
from segtasks.writers import _brush
from segtasks.writers._base import JSON, Labelled, Scored
from segtasks.writers._coco import no_split
from segtasks.writers._files import by_name, image_suffix, put, require_unique, stem_of
from segtasks.writers._objects import is_background, objects_of
from segtasks.writers._xml import Document, is_xml, web_color


class Config(BaseConfig):
    """Options of the Label Studio writer."""

    shape: Literal["brush", "polygon"] = Field(default="brush", description="kind of result an object becomes")
    results: Literal["predictions", "annotations"] = Field(default="predictions", description="what the objects are of a task")
    image_root: str = Field(
        default="/data/local-files/?d=",
        description="put before each image's path to make its URL: https://..., s3://bucket/folder, or /data/local-files/?d=folder, as "
        "seen from Label Studio's document root; the path is that of the file written, or the image's id where none is written",
    )
    from_name: str = Field(default="label", min_length=1, description="name of the labels' tag in the project's labelling interface")
    to_name: str = Field(default="image", min_length=1, description="name of the image's tag there; its value is $image")
    model_version: str = Field(default="segtasks", min_length=1, description="name of the predictions in Label Studio")
    tasks_per_file: int = Field(default=1000, ge=1, description="tasks in one JSON file; Label Studio refuses files above 250 MB")


def build(config: Config, target: Store, spec: DatasetSpec) -> LabelStudioWriter:
    return LabelStudioWriter(config, target, spec)


class LabelStudioWriter:
    """See the module."""

    def __init__(self, config: Config, target: Store, spec: DatasetSpec) -> None:
        self._config, self._target, self._spec = config, target, spec
        self._classes = [item for index, item in enumerate(spec.classes) if not is_background(spec, index)]
        if not self._classes:
            raise ConfigError(f"{spec.name!r} has no classes of objects, so there is nothing to annotate")
        for name in (config.from_name, config.to_name, *spec.names):
            if not is_xml(name):
                raise ConfigError(f"{name!r} has a character that XML cannot hold; needed: another name")

    def write(self, sample: Labelled) -> JSON:
        file = f"images/{sample.split or no_split}/{stem_of(sample)}{image_suffix(sample)}"
        objects = objects_of(sample, self._spec)
        results = [result for number, one in enumerate(objects) for result in self._results(one, number, sample)]
        scores = [one.score for one in objects if one.score is not None]
        data = {
            "image": self._url(file if sample.image is not None else sample.image_id),
            "image_id": sample.image_id,
            "split": sample.split,
        }
        made: JSON = {"result": results}
        if self._config.results == "predictions":
            made = {"model_version": self._config.model_version, **made}
            if scores:
                made["score"] = sum(scores) / len(scores)
        put(self._target, file, sample.image)
        return {"image_id": sample.image_id, "file": file, "task": {"data": data, self._config.results: [made]}}

    def finish(self, splits: Mapping[str, Iterable[JSON]]) -> None:
        require_unique(splits)
        for split, entries in by_name(splits, no_split).items():
            tasks = (entry["task"] for entry in entries)
            for number in itertools.count(1):
                chosen = list(itertools.islice(tasks, self._config.tasks_per_file))
                if not chosen:
                    break
                self._target.replace(f"tasks/{split}-{number:04d}.json", _list(chosen))
        self._target.replace("label_config.xml", self._interface())

    def _url(self, path: str) -> str:
        """Keys of buckets are taken as they are; in a URL they are quoted."""
        root = self._config.image_root
        root = root if root.endswith(("/", "=")) or not root else f"{root}/"
        return f"{root}{quote(path) if root.startswith(('http://', 'https://', '/')) else path}"

    def _results(self, one: Scored, number: int, sample: Labelled) -> Iterator[JSON]:
        left, top, width, height = (int(side) for side in rle.bbox(one.counts, sample.height, sample.width))
        if not width:
            return
        name = self._spec.names[one.category_id]
        if self._config.shape == "brush":
            crop = rle.decode_box(one.counts, sample.height, sample.width, (top, left, height, width))
            bits = _brush.encode(crop, top, left, sample.height, sample.width)
            yield self._result(one, sample, f"{number}", "brushlabels", {"format": "rle", "rle": bits, "brushlabels": [name]})
            return
        first = ""
        for place, part in enumerate(outlines(one.counts, sample.height, sample.width)):
            points = [[100 * x / sample.width, 100 * y / sample.height] for x, y in zip(part[0::2], part[1::2], strict=True)]
            value = {"points": points, "closed": True, "polygonlabels": [name]}
            result = self._result(one, sample, f"{number}.{place}", "polygonlabels", value)
            yield {**result, "parentID": first} if first else result
            first = first or result["id"]

    def _result(self, one: Scored, sample: Labelled, place: str, kind: str, value: JSON) -> JSON:
        """Its id is the same whenever the same data are exported."""
        result: JSON = {
            "id": hashlib.blake2b(f"{sample.image_id}\n{place}".encode(), digest_size=5).hexdigest(),
            "type": kind,
            "from_name": self._config.from_name,
            "to_name": self._config.to_name,
            "original_width": sample.width,
            "original_height": sample.height,
            "image_rotation": 0,
            "origin": "prediction" if self._config.results == "predictions" else "manual",
            "value": value,
        }
        if one.iscrowd:
            result["meta"] = {"text": ["crowd"]}
        return result if one.score is None else {**result, "score": one.score}

    def _interface(self) -> bytes:
        kind = "BrushLabels" if self._config.shape == "brush" else "PolygonLabels"
        file = io.BytesIO()
        xml = Document(file, declared=False)  # it is pasted as text, where an encoding is an error
        with xml.element("View"):
            xml.text("Image", "", {"name": self._config.to_name, "value": "$image", "zoom": "true", "zoomControl": "true"})
            with xml.element(kind, {"name": self._config.from_name, "toName": self._config.to_name}):
                for item in self._classes:
                    xml.text("Label", "", {"value": item.name, "background": web_color(item.color)})
        xml.close()
        return file.getvalue()


def _list(tasks: list[JSON]) -> bytes:
    return ("[\n" + ",\n".join(json.dumps(task, ensure_ascii=False, separators=(",", ":")) for task in tasks) + "\n]\n").encode()

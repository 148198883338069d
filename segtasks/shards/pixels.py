"""The encoded bytes of a row's image: its own, or where it is stored by reference those of the object that it was ingested from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segtasks.errors import ChangedObject, MissingObject
from segtasks.storage import StorageOptions, open_store

IMAGE_COLUMNS = ("image_id", "image", "source_uri", "source_version")  # what `image_bytes` needs of a row


def image_bytes(row: Mapping[str, Any], storage: StorageOptions | None) -> bytes:
    """The bytes of a done row of samples. A referenced object that is gone is a `MissingObject`, one that was replaced a `ChangedObject`.

    The version is looked up after the bytes are read: had they been another version's, it would be seen.
    """
    stored = (row["image"] or {}).get("bytes")
    if stored is not None:
        return bytes(stored)
    uri: str = row["source_uri"]
    folder, _, name = uri.rpartition("/")
    store = open_store(folder or "/", storage)
    try:
        data = store.read(name)
        version = store.entry(name).version
    except FileNotFoundError as error:
        raise MissingObject(f"{uri} is gone; {row['image_id']} is stored by reference to it: put it back, or ingest by value") from error
    if version != row["source_version"]:
        raise ChangedObject(f"{uri} is version {version} now and was {row['source_version']} when ingested: run ingest again")
    return data

"""Objects at a URL: read, list, and the create-only write that every commit stands on."""

from segtasks.storage._entries import Entry
from segtasks.storage._options import StorageOptions
from segtasks.storage._store import Store, open_store

__all__ = ["Entry", "StorageOptions", "Store", "open_store"]

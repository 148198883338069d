"""What a run of ingest has to do: the listing against what the output holds. New and changed images are read into new shards; the old
rows of changed ones, of refused ones that are tried again, and (by policy) of images that are gone are dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from segtasks.errors import InputError, SourceShrank
from segtasks.readers._base import SourceItem
from segtasks.shards.recipe import Recipe
from segtasks.shards.snapshot import Snapshot
from segtasks.stages._known import Known, id_digest
from segtasks.stages._manifest import Namer, Spool, make_units
from segtasks.stages._run import Proposal
from segtasks.stages._split import with_splits
from segtasks.stages.config import IngestConfig
from segtasks.storage import Store

log = logging.getLogger(__name__)
_items_at_once = 8192


def propose_delta(items: Iterable[SourceItem], config: IngestConfig, store: Store, recipe: Recipe, latest: Snapshot | None) -> Proposal:
    """Units for what must be read, and rows to drop. `items` are streamed: what is kept of each, and of each known row, is numbers."""
    known = Known(latest)
    changes: Counter[str] = Counter()
    replaced: list[int] = []
    with Spool() as spool:
        new_ids = bytearray()
        for lot in _lots(_chosen(items, config)):
            digests = [id_digest(item.image_id) for item in lot]
            for item, digest, place in zip(lot, digests, known.find(digests).tolist(), strict=True):
                if place >= 0 and not known.see(place):
                    raise _twice(config, item.image_id)
                what = _what(known, place, item, config)
                if what:
                    changes[what] += 1
                    spool.add(item, retried=what == "retried")
                    (new_ids.extend(digest) if place < 0 else replaced.append(place))
        _require_unique(new_ids, spool, config)
        del new_ids
        dropped = _gone(known, config)
        changes["dropped"] = len(dropped)
        namer = Namer(recipe.id, latest.number if latest else 0, latest.listed.keys() if latest else frozenset())
        units = make_units(spool, config.shard_bytes, config.shard_rows, namer, None if config.dry_run else store)
    deletions = known.positions(np.concatenate([np.array(replaced, np.int64), dropped]))
    return Proposal(units, deletions, changes={what: number for what, number in changes.items() if number})


def _chosen(items: Iterable[SourceItem], config: IngestConfig) -> Iterator[SourceItem]:
    """The first `limit` items, with their splits. `InputError` when there are none."""
    items = islice(items, config.limit)
    if config.splits:
        items = with_splits(items, config.splits, config.split_seed, all_of_them=config.resplit)
    found = False
    for item in items:
        found = True
        yield item
    if not found:
        raise InputError(f"no images were found at {config.source}; check --source and --format (segtasks readers tells the layouts)")


def _lots(items: Iterator[SourceItem]) -> Iterator[list[SourceItem]]:
    while lot := list(islice(items, _items_at_once)):
        yield lot


def _what(known: Known, place: int, item: SourceItem, config: IngestConfig) -> str:
    """Why the item has to be read; empty where it has not."""
    if place < 0:
        return "new"
    if not known.unchanged(place, item):
        return "changed"
    return "retried" if config.retry_quarantined and known.refused(place) else ""


def _require_unique(digests: bytearray, spool: Spool, config: IngestConfig) -> None:
    """16 bytes an id, sorted in place: a set of as many strings would take ten times that."""
    ids = np.frombuffer(digests, "S16")
    ids.sort()
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        wanted = twice[0].ljust(16, b"\0")  # NumPy cuts zeros off the end
        raise _twice(config, spool.find(lambda image_id: id_digest(image_id) == wanted))


def _twice(config: IngestConfig, image_id: str) -> InputError:
    return InputError(f"{config.source} lists {image_id!r} twice; needed: one entry an image")


def _gone(known: Known, config: IngestConfig) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The rows to drop for images that the source has no more. `SourceShrank` where that is not allowed."""
    gone = known.gone()
    if not len(gone):
        return gone
    missing = f"{len(gone):,} of {len(known):,} images of {config.output} are not at {config.source} any more"
    if config.deleted == "keep":
        log.info("%s; their rows stay (deleted=drop drops them)", missing)
        return gone[:0]
    if config.deleted == "fail":
        raise SourceShrank(
            f"{missing}, and deleted=fail allows none: nothing was done. deleted=keep keeps their rows, deleted=drop drops them"
        )
    share = len(gone) / len(known)
    if share > config.max_deleted:
        raise SourceShrank(
            f"{missing} ({share:.1%}); max_deleted allows {config.max_deleted:.1%}: nothing was done. Is the source mounted and whole, and "
            f"--source the right folder? If they are meant to go, run again with max_deleted={min(1.0, round(share + 0.005, 2))} or more; "
            "deleted=keep keeps their rows"
        )
    return gone

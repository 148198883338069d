"""One run at a time on an output: a second one waits for its turn, and then finds what the first has made.

This saves work, it does not keep the output right: commits are create-only, and two runs that work on one plan end in the same shards.

The turn is a global concurrency limit of Prefect's that exists while somebody has it: its name, unique in a server, is the output's. So
it counts wherever a run comes from: a schedule, another deployment, `segtasks run`. The holder renews it as long as it lives; one that
nobody has renewed for `lease_s` is that of a killed run, and whoever waits removes it.

Not the slots of a limit that stays, with Prefect's own leases: an ephemeral server never ends a dead one's, and any other server forgets
leases when it starts again (unless set otherwise) but not that the slot is taken; both keep the output shut for ever. Not a
deployment's limit either: it makes runs on other outputs wait and lets runs started elsewhere through.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows._names import tail
from segtasks.storage import open_store

log = logging.getLogger("segtasks.turn")
lease_s = 30.0
renew_every_s = 5.0
look_every_s = 1.0


@contextmanager
def turn(output: str) -> Iterator[None]:
    """Wait until no other run works on `output`, and keep others waiting inside."""
    name = limit_name(output)
    with get_client(sync_client=True) as client:
        held = _take(client, name, output)
        done = threading.Event()
        renewing = threading.Thread(target=copy_context().run, args=(_renew, client, held, done), name="segtasks-turn", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join(renew_every_s)
            with suppress(ObjectNotFound, httpx.HTTPError):  # it ends by itself
                client.delete_global_concurrency_limit_by_name(str(held))


def limit_name(output: str) -> str:
    """`segtasks street-masks 0a1b2c3d4e5f`: readable, and one for an output however its URL is written."""
    url = open_store(output).url
    return f"segtasks {re.sub(r'[^A-Za-z0-9._-]+', '-', tail(url))} {hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _take(client: SyncPrefectClient, name: str, output: str) -> UUID:
    """Whoever makes the limit has the turn. Age is measured on our own clock, between two looks at it: no clocks are compared."""
    seen, since, told = None, time.monotonic(), False
    while True:
        try:
            found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # another run was faster
                return client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1, active_slots=1))
            continue
        if not told:
            log.info("waits for another run on %s (Prefect's concurrency limit %r)", output, name)
            told = True
        if seen != (found.id, found.updated):
            seen, since = (found.id, found.updated), time.monotonic()
        elif time.monotonic() - since > lease_s:
            log.info("the run that worked on %s has not been heard of for %.0f s: this one goes on", output, lease_s)
            with suppress(ObjectNotFound):  # by id: that of a run that was faster stays
                client.delete_global_concurrency_limit_by_name(str(found.id))
            continue
        time.sleep(look_every_s)


def _renew(client: SyncPrefectClient, held: UUID, done: threading.Event) -> None:
    while not done.wait(renew_every_s):
        try:
            client.update_global_concurrency_limit(str(held), GlobalConcurrencyLimitUpdate(active_slots=1))
        except ObjectNotFound:
            log.warning("another run took this output's turn, for this one was not heard of; a shard may be made twice, and one is kept")
            return
        except httpx.HTTPError as error:
            log.debug("the turn was not renewed: %s", error)

"""What Ray's worker processes print. Set up in each of them by Ray's `worker_process_setup_hook`."""

from __future__ import annotations

import logging


def set_up() -> None:
    """Our own records from INFO up; of Ray Train only warnings that mean something here.

    On a cluster without a dashboard its placement-group cleaner complains every few seconds that it cannot ask the dashboard.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    ours = logging.getLogger("segtasks")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    for name in _PLACEMENT_GROUP_CLEANER:
        logging.getLogger(name).setLevel(logging.ERROR)


_PLACEMENT_GROUP_CLEANER = (
    "ray.train.v2._internal.execution.controller.placement_group_cleaner",
    "ray.train.v2._internal.callbacks.placement_group_callback",
)

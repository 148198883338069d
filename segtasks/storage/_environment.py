"""The credentials that a worker on another machine needs: an allow-listed part of the driver's environment, from memory to memory.

They are never part of a configuration, a plan, a log or Ray's runtime environment (which Ray writes to files).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_ALLOWED = re.compile(
    r"AWS_\w+|AZURE_STORAGE_\w+|AZURE_(CLIENT_ID|CLIENT_SECRET|TENANT_ID|AUTHORITY_HOST|FEDERATED_TOKEN_FILE)"
    r"|GOOGLE_APPLICATION_CREDENTIALS|GOOGLE_CLOUD_PROJECT|STORAGE_EMULATOR_HOST|FSSPEC_\w+"
)
_ABOUT_THIS_MACHINE = re.compile(r"AWS_(CONTAINER|LAMBDA|EXECUTION|EC2)_\w+")
_NAMES_A_FILE = re.compile(r"\w+_FILE|AWS_CA_BUNDLE|GOOGLE_APPLICATION_CREDENTIALS")


def credentials() -> dict[str, str]:
    """What this process' environment says about object stores."""
    return {name: value for name, value in os.environ.items() if _ALLOWED.fullmatch(name) and not _ABOUT_THIS_MACHINE.fullmatch(name)}


def take(given: Mapping[str, str]) -> None:
    """Use them in this process. One that names a file counts only where the file is; otherwise the machine's own stays."""
    for name, value in given.items():
        if not _NAMES_A_FILE.fullmatch(name) or os.path.exists(value):
            os.environ[name] = value

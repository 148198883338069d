"""The elements of a large JSON object's lists, one at a time and with their places, so that the whole is never parsed at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_space = re.compile(r"[ \t\r\n]*")
parse = json.JSONDecoder().raw_decode  # of a text and where to start: the value and where it ends


def walk(text: str) -> Iterator[tuple[str, int | None, int, Any]]:
    """Key, number, start and value of each element of the outermost object's lists, and of its other values (number None).

    A list comes first by itself, empty, with number None.
    """
    at = _after(text, skip(text, 0), "{")
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
        key, at = parse(text, at)
        at = _after(text, skip(text, at), ":")
        if text[at : at + 1] == "[":
            yield key, None, at, []
            number, at = 0, skip(text, at + 1)
            while text[at : at + 1] != "]":
                value, stop = parse(text, at)
                yield key, number, at, value
                number, at = number + 1, _comma(text, stop, "]")
            at += 1
        else:
            value, stop = parse(text, at)
            yield key, None, at, value
            at = stop
        at = _comma(text, at, "}")
    end = skip(text, at + 1)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def skip(text: str, at: int) -> int:
    space = _space.match(text, at)
    return space.end() if space else at


def _after(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return skip(text, at + 1)


def _comma(text: str, at: int, close: str) -> int:
    """Where the next element or the closing mark is."""
    at = skip(text, at)
    return at if text[at : at + 1] == close else _after(text, at, ",")

"""What writers of XML share: a document that is written element by element, and what its text can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

_illegal = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_xml(text: str) -> bool:
    """Whether XML 1.0 can say it: control characters it cannot, not even escaped."""
    return _illegal.search(text) is None


def web_color(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


class Document:
    """UTF-8, indented, escaped; goes to `file` as it is written."""

    def __init__(self, file: IO[bytes], *, declared: bool = True) -> None:
        self._xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        if declared:
            self._xml.startDocument()
        self._depth = 0

    @contextmanager
    def element(self, tag: str, attributes: Mapping[str, str] | None = None) -> Iterator[None]:
        """Has the elements that are written inside."""
        self._start(tag, attributes)
        self._depth += 1
        yield
        self._depth -= 1
        self._line()
        self._xml.endElement(tag)

    def text(self, tag: str, text: str, attributes: Mapping[str, str] | None = None) -> None:
        """An element with text alone, or with none."""
        self._start(tag, attributes)
        if text:
            self._xml.characters(text)
        self._xml.endElement(tag)

    def close(self) -> None:
        self._line()
        self._xml.endDocument()

    def _start(self, tag: str, attributes: Mapping[str, str] | None) -> None:
        if self._depth:
            self._line()
        self._xml.startElement(tag, AttributesImpl(dict(attributes or {})))

    def _line(self) -> None:
        self._xml.ignorableWhitespace("\n" + "  " * self._depth)

"""What a command hands back: one document for machines and lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any


@dataclass(frozen=True)
class Outcome:
    """`document` is printed with `--json`, `lines` otherwise; `code` is what the command exits with."""

    document: Any
    lines: Iterable[str]
    code: int = 0

    def write(self, out: IO[str], *, as_json: bool) -> None:
        if as_json:
            json.dump(self.document, out, ensure_ascii=False)
            out.write("\n")
        else:
            for line in self.lines:
                out.write(line + "\n")
        out.flush()


def table(rows: Iterable[Iterable[Any]], header: Iterable[str] = ()) -> list[str]:
    """Rows as aligned columns, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    head = list(header)
    every = [head, *cells] if head else cells
    if not every:
        return []
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]
    right = [bool(cells) and all(_is_number(row[column]) for row in cells) for column in range(len(widths))]
    return [
        "  ".join(text.rjust(width) if to_right else text.ljust(width) for text, width, to_right in zip(row, widths, right)).rstrip()
        for row in every
    ]


def counted(number: int, noun: str) -> str:
    """`1 shard`, `1,200 shards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()

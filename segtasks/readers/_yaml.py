"""The YAML of a data set, which may come from anybody: whatever is wrong with it is an `InputError` that names the file."""

from __future__ import annotations

from typing import Any

import yaml

from segtasks.errors import InputError

_most_bytes = 1 << 20  # the names of 65,000 classes
# what PyYAML's constructors raise for scalars such as 2001-13-41, 0b_ and !!int ""
_unsound = (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, TypeError, AttributeError)


class _Loader(yaml.SafeLoader):
    """An alias may stand for a text or a number. Of lists and mappings ten lines of aliases make 10^9 elements."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            node = self.anchors.get(event.anchor)
            if node is not None and not isinstance(node, yaml.ScalarNode):
                raise yaml.YAMLError(f"*{event.anchor}, line {event.start_mark.line + 1}, stands for a list or a mapping; write it out")
        return super().compose_node(parent, index)


def load(data: bytes, where: str) -> Any:
    """The file's only document."""
    if len(data) > _most_bytes:
        raise InputError(f"{where} has {len(data)} bytes; needed: a description of {_most_bytes} at most")
    try:
        return yaml.load(data, _Loader)
    except _unsound as error:
        raise InputError(f"{where} is not valid YAML: {error}") from error

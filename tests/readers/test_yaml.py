from __future__ import annotations

import pytest

from segtasks.errors import InputError
from segtasks.readers import _yaml


def test_an_alias_may_stand_for_a_text_and_for_no_list() -> None:
    assert _yaml.load(b"train: &t images\nval: *t\n", "data.yaml") == {"train": "images", "val": "images"}
    levels = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij"))
    with pytest.raises(InputError, match=r"data\.yaml is not valid YAML: \*b, line 3, stands for a list or a mapping; write it out"):
        _yaml.load(f"a: &a x\n{levels}".encode(), "data.yaml")
    for text in ("&a [*a]", "a: &a {x: 1}\nb: {<<: *a}", "a: *b"):
        with pytest.raises(InputError, match=r"data\.yaml is not valid YAML"):
            _yaml.load(text.encode(), "data.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",
        "a: 0b_",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: !!bool x",
        "[" * 3000,
        f"a: {'9' * 5000}",
        "a: \0",
        "{",
        "\t",
        "!!python/object:x y",
    ],
)
def test_what_pyyaml_stumbles_over_is_no_valid_yaml(text: str) -> None:
    with pytest.raises(InputError, match=r"data\.yaml is not valid YAML: "):
        _yaml.load(text.encode(), "data.yaml")


def test_a_very_large_file_is_no_description() -> None:
    with pytest.raises(InputError, match=r"data\.yaml has 1048577 bytes; needed: a description of 1048576 at most"):
        _yaml.load(b"a" * ((1 << 20) + 1), "data.yaml")

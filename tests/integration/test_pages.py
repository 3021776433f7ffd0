"""How pages are read, and what counts as printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.pages import Block, blocks, lacking, steps

PAGE = """# A page

```bash
one
```

Then:

```text
two  3
```

```python
three
```

    not a block
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_blocks_have_their_languages_and_lines(page: Path) -> None:
    assert blocks(page) == [
        Block("bash", "one\n", 3),
        Block("text", "two  3\n", 9),
        Block("python", "three\n", 13),
    ]


def test_a_typed_block_comes_with_what_it_shows(page: Path) -> None:
    shell, text, python = blocks(page)
    assert steps(page) == [(shell, [text]), (python, [])]


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("a 1\n", "a 2\n", []),
        ("a\n", "b\n", ["a"]),
        ("a\nb\n", "b\na\n", ["b"]),
        ("a\nc\n", "a\nb\nc\n", []),
        ("a\na\n", "a\n", ["a"]),
        ("a -0.5  x\n ─── \n\n", "a 1,200.25 x\n", []),
        ("a 1 .\n", "a . 2\n", []),
        ("a.\n", "a 1\n", ["a."]),
        ("made 5bedf422feae\n", "made 0123456789ab\n", []),
        ("made 5bedf422feae\n", "made it\n", ["made 5bedf422feae"]),
    ],
)
def test_what_is_lacking(shown: str, printed: str, missing: list[str]) -> None:
    assert lacking(Block("text", shown, 1), printed) == missing


def test_json_is_compared_whole() -> None:
    shown = Block("json", '{\n  "a": 1\n}\n', 1)
    assert lacking(shown, '{"a":1}{"b":2}') == []
    assert lacking(shown, '{"a":2}') == [shown.text]

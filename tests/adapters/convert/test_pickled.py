"""Bytes that are no torch file end in one kind of error, whatever the unpickler makes of them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jumplora_adapters.convert.pickled import load_pickled
from jumplora_adapters.errors import ConvertError


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02.",
        b"\x80\x02]t.",
        b"\x80\x02(K\x01s.",
        b"\x80\x02J\x01.",
        b"PK\x03\x04",
    ],
)
def test_damage_is_a_convert_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConvertError):
        load_pickled(tmp_path / "a.pt")


def test_nobody_is_advised_to_let_a_file_run_code(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("# no checkpoint at all\n")
    with pytest.raises(ConvertError, match="not a plain torch file") as caught:
        load_pickled(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_is_a_convert_error(
    tmp_path: Path, place: int, value: int
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(ConvertError):
        load_pickled(path)

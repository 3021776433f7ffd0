"""Bars on a terminal: they appear when there is something to wait for."""

from __future__ import annotations

import pytest

from jumplora_adapters.cli.progress import counted, sending

LARGE = 64_000_000


def test_a_large_file_has_a_bar_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with sending("topics", quiet=False) as on_sent:
        on_sent(LARGE // 2, LARGE)
        on_sent(LARGE, LARGE)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "topics" in shown.err
    assert "64.0/64.0 MB sent; the server reads it" in shown.err


@pytest.mark.parametrize(("size", "quiet"), [(1_000_000, False), (LARGE, True)])
def test_a_small_file_and_a_quiet_command_have_none(
    capsys: pytest.CaptureFixture[str], size: int, quiet: bool
) -> None:
    with sending("topics", quiet=quiet) as on_sent:
        on_sent(size, size)
    assert capsys.readouterr().err == ""


def test_counted_things(capsys: pytest.CaptureFixture[str]) -> None:
    with counted("compared", 3, quiet=False) as on_done:
        assert capsys.readouterr().err == "", "not before the first"
        on_done(1)
        on_done(2)
    assert "3/3" in capsys.readouterr().err

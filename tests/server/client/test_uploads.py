"""What an upload tells of itself while it is sent."""

from __future__ import annotations

from pathlib import Path

from jumplora_server.client.uploads import CHUNK_BYTES, opened


def test_bytes_are_counted_as_they_are_taken_and_anew_for_each_try(tmp_path: Path) -> None:
    size = 2 * CHUNK_BYTES + 5
    file = tmp_path / "a.safetensors"
    file.write_bytes(bytes(size))
    told: list[tuple[int, int]] = []
    with opened(file) as upload:
        first = upload.chunks(lambda sent, total: told.append((sent, total)))
        next(first)
        next(first)
        assert told == [(CHUNK_BYTES, size)], "the second piece is not sent yet"
        again = upload.chunks(lambda sent, total: told.append((sent, total)))
        assert sum(map(len, again)) == size
    assert told[1:] == [(CHUNK_BYTES, size), (2 * CHUNK_BYTES, size), (size, size)]

"""Long work gives others their turns by time, whatever one piece of it takes."""

from __future__ import annotations

import asyncio

from jumplora_server.api.turns import in_turns


def turns_of_others(pieces: int, seconds: float) -> int:
    """How often another task ran while work was made in turns of so many seconds."""

    async def both() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(other())
        assert await in_turns(iter(range(pieces)), seconds) == [*range(pieces)]
        running.cancel()
        return turns

    return asyncio.run(both())


def test_each_piece_that_takes_its_time_ends_a_turn() -> None:
    assert turns_of_others(7, 0.0) == 7


def test_short_pieces_share_a_turn() -> None:
    assert turns_of_others(7, 3600.0) == 0


def test_of_nothing_there_is_nothing() -> None:
    assert turns_of_others(0, 0.0) == 0

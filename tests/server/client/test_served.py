"""Both clients against a whole server around the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_pair import KINDS, Kind, client_of
from jumplora_server.client import AsyncClient, Client, InputRefused, KeyRefused, Row, TaskUnknown
from serving import ADMIN_KEY, Site, listening, make_site, slow_down, wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"), max_inputs=3)
    with listening(site) as address:
        site.publish("alpha")
        site.publish("beta")
        yield site, address


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, served: tuple[Site, str]) -> Iterator[Any]:
    kind: Kind = request.param
    with client_of(kind, served[1], key=ADMIN_KEY) as made:
        yield made


def test_generate_in_all_ways(client: Any) -> None:
    one = client.generate("alpha", "hi", parameters={"max_new_tokens": 4})
    assert one.details.task_id == "alpha"
    whole = client.generate("alpha", inputs="do {text}|hi>", parameters={"max_new_tokens": 4})
    assert whole.generated_text == one.generated_text
    both = client.generate_all("alpha", ["hi", "ho"], parameters={"max_new_tokens": 4})
    assert both[0].generated_text == one.generated_text
    events = list(client.stream("alpha", "hi", parameters={"max_new_tokens": 4}))
    assert events[-1].generated_text == one.generated_text
    assert events[-1].details is not None
    pieces = list(client.stream_text("alpha", "hi", parameters={"max_new_tokens": 4}))
    assert "".join(pieces) == one.generated_text
    assert len(pieces) > 1


def test_a_stream_that_is_left_ends_on_the_server(client: Any, served: tuple[Site, str]) -> None:
    site = served[0]
    before = site.outcomes("alpha").get("client_disconnect", 0)
    with slow_down(site):
        events = client.stream("alpha", "hi", parameters={"max_new_tokens": 8})
        next(events)
        events.close()
        wait_for(lambda: site.outcomes("alpha").get("client_disconnect", 0) == before + 1)


def test_leaving_a_loop_over_a_stream_early_is_enough(served: tuple[Site, str]) -> None:
    site, url = served
    short = {"max_new_tokens": 8}

    async def leave() -> None:
        async with AsyncClient(url) as client:
            async for _ in client.stream("alpha", "hi", parameters=short):
                break
            await asyncio.to_thread(wait_for, is_left)

    def is_left() -> bool:
        return site.outcomes("alpha").get("client_disconnect", 0) == before + 1

    with slow_down(site):
        before = site.outcomes("alpha").get("client_disconnect", 0)
        with Client(url) as client:
            for _ in client.stream("alpha", "hi", parameters=short):
                break
            wait_for(is_left)
        before += 1
        asyncio.run(leave())


def test_choose(client: Any) -> None:
    choice = client.choose("alpha", "hi", ["yes", "no", "perhaps"])
    assert choice.text == choice.options[0][0]
    assert choice.probability == choice.options[0][1]
    assert {text for text, _ in choice.options} == {"yes", "no", "perhaps"}
    assert sum(share for _, share in choice.options) == pytest.approx(1)
    assert not choice.calibrated
    assert choice.version == client.adapter("alpha").version
    none = client.choose("alpha", "hi", ["yes", "no"], min_probability=1.0)
    assert none.text is None
    assert 0.5 <= none.probability < 1
    with pytest.raises(InputRefused, match="options"):
        client.choose("alpha", "hi", [])


def test_batch_of_all_kinds_in_order(client: Any) -> None:
    short = {"max_new_tokens": 4}
    rows: list[Row | str] = []
    for number in range(20):
        rows += [
            f"text {number}",
            Row(f"text {number}", task="beta"),
            Row(inputs=f"whole {number}", parameters={"max_new_tokens": 2}),
        ]
    rows[7] = Row("x", task="gamma")
    rows[30] = "x" * 500  # over the limit of tokens
    answered = list(client.batch(iter(rows), task="alpha", parameters=short, concurrency=2))
    assert len(answered) == len(rows)
    for number, (row, each) in enumerate(zip(rows, answered, strict=True)):
        if number in (7, 30):
            assert isinstance(each.error, TaskUnknown if number == 7 else InputRefused)
            with pytest.raises(type(each.error)):
                _ = each.text
            continue
        given = Row(row) if isinstance(row, str) else row
        alone = client.generate(
            given.task or "alpha",
            given.text,
            inputs=given.inputs,
            parameters=given.parameters or short,
        )
        assert each.text == alone.generated_text, number
        assert each.row.task == (given.task or "alpha")


def test_adapters_from_publish_to_remove(
    client: Any, served: tuple[Site, str], tmp_path: Path
) -> None:
    site = served[0]
    files = [site.adapter("changes"), site.adapter("changes")]
    first = client.publish("changes", files[0])
    assert first.outcome == "created"
    assert client.publish("changes", str(files[0])).outcome == "unchanged"
    second = client.publish("changes", files[1], if_match=first.version)
    with pytest.raises(InputRefused, match="changes") as refused:
        client.publish("changes", site.adapter("changes"), if_match=first.version)
    assert (refused.value.status, refused.value.code) == (412, "version_conflict")
    assert client.adapter("changes").history == [first.version, second.version]
    assert client.rollback("changes").version == first.version
    assert client.rollback("changes", second.version).version == second.version
    staged = client.publish("changes", files[0], stage=0.25)
    assert (staged.outcome, staged.version) == ("staged", second.version)
    assert staged.staged.share == 0.25
    assert client.stage("changes", first.version, 1).staged.is_open
    assert client.generate("changes@staged", "x").details.adapter_version == first.version
    assert client.promote("changes", first.version).version == first.version
    client.stage("changes", second.version[:8], 0.5)
    assert client.unstage("changes", note="no").changes[-1].note == "no"
    assert client.alias("changes", "best", second.version).aliases == {"best": second.version}
    assert client.generate("changes@best", "x").details.adapter_version == second.version
    assert client.alias("changes", "best", None).aliases == {}
    assert client.load("changes").state == "READY"
    assert client.pin("changes").pinned
    assert not client.pin("changes", "unpinned").pinned
    assert "changes" in [each.task_id for each in client.adapters()]
    client.remove("changes")
    with pytest.raises(TaskUnknown, match=r"adapters\(\) lists the tasks"):
        client.adapter("changes")


def test_overview(client: Any) -> None:
    whole = client.overview()
    assert (whole.server.ready, whole.offset) == (True, 0)
    assert [line.task_id for line in whole.tasks] == ["alpha", "beta"]
    one = client.overview("ALPH", sort="requests", order="descending", limit=1)
    assert (one.total, one.found) == (2, 1)
    assert [line.task_id for line in client.overview(offset=1).tasks] == ["beta"]
    with pytest.raises(InputRefused, match="limit"):
        client.overview(limit=101)


def test_server(client: Any) -> None:
    assert client.info().max_client_batch_size == 3
    assert client.is_ready()
    assert client.wait_ready(10) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key_is_refused_and_not_shown(kind: Kind, served: tuple[Site, str]) -> None:
    with client_of(kind, served[1], key="not-the-key-of-tests") as client:
        with pytest.raises(KeyRefused, match="key=") as refused:
            client.remove("alpha")
        assert "not-the-key" not in repr(refused.value) + str(refused.value)

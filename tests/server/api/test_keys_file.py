"""A whole server with a keys file: which key does what, and what the server says of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jumplora_server.access.keys import hash_of
from jumplora_server.access.keys_file import KeysFault, entry_text
from jumplora_server.api.overview_schemas import Overview
from serving import ADMIN_KEY, Site, connected, make_site, wait_for

KEYS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "asker": (["infer"], ()),
    "reader": (["read"], ("mine*",)),
    "scraper": (["metrics"], ()),
    "publisher": (["admin"], ("mine*",)),
    "late": (["infer", "read"], ()),
}


def write_keys(file: Path, *names: str) -> None:
    """The keys of that names, each of which is its id."""
    entries = []
    for name in names or KEYS:
        scopes, tasks = KEYS[name]
        expires = "2020-01-01" if name == "late" else None
        entries.append(entry_text(name, [hash_of(name)], scopes, tasks, expires))
    file.write_text("\n".join(entries))


def by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    write_keys(folder / "keys.toml")
    return make_site(folder, keys_file=folder / "keys.toml", admin_keys="")


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("mine")
        site.publish("theirs")
        yield http


@pytest.mark.parametrize(
    ("name", "status"),
    [(None, 401), ("nothing", 401), ("late", 401), ("reader", 403), ("asker", 200)],
)
def test_generating(http: httpx.Client, name: str | None, status: int) -> None:
    body = {"task_id": "mine", "inputs": "x"}
    answer = http.post("/generate", json=body, headers=by(name) if name else {})
    assert answer.status_code == status
    assert ("expired" in answer.text) == (name == "late")


CHANGES = [
    ("PUT", "/v1/adapters/{}", None),
    ("DELETE", "/v1/adapters/{}", None),
    ("POST", "/v1/adapters/{}/rollback", None),
    ("PUT", "/v1/adapters/{}?stage=0.5", None),
    ("POST", "/v1/adapters/{}/stage", {"version": "0" * 64, "share": 0.5}),
    ("POST", "/v1/adapters/{}/promote", None),
    ("POST", "/v1/adapters/{}/unstage", {"note": "x"}),
    ("POST", "/v1/adapters/{}/alias", {"name": "best"}),
    ("POST", "/v1/adapters/{}/load", None),
    ("POST", "/v1/adapters/{}/pin", None),
    ("POST", "/v1/load_lora_adapter", {"lora_name": "{}", "lora_path": "x"}),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "{}"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=str)
def test_a_key_changes_its_own_tasks_and_reads_one_text_of_others(
    http: httpx.Client, site: Site, method: str, path: str, body: dict[str, str | float] | None
) -> None:
    def change(task: str) -> tuple[int, str]:
        sent = body and {
            name: value.format(task) if isinstance(value, str) else value
            for name, value in body.items()
        }
        answer = http.request(method, path.format(task), json=sent, headers=by("publisher"))
        return answer.status_code, answer.text.replace(task, "TASK")

    before = site.metric("jumplora_auth_refusals_total", reason="task")
    status, text = change("theirs")
    assert (status, text) == change("not-there-1")
    assert status == 403
    assert "this key may change adapters of its own tasks only, and 'TASK' is none" in text
    wait_for(lambda: site.metric("jumplora_auth_refusals_total", reason="task") == before + 2)
    # "mine-2" may be its own and is not published: no matter of keys any more.
    own, told = change("mine-2")
    assert own != 403 or "JUMPLORA_LOAD_FOLDER" in told


def test_a_published_task_of_its_own(http: httpx.Client, site: Site) -> None:
    content = site.adapter("mine-3").read_bytes()
    put = http.put("/v1/adapters/mine-3", content=content, headers=by("publisher"))
    assert put.status_code == 201
    assert http.delete("/v1/adapters/mine-3", headers=by("publisher")).status_code == 200
    assert http.put("/v1/adapters/mine-3", content=content, headers=by("reader")).status_code == 403


def test_refusals_are_counted_by_reason(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml")
    site = make_site(tmp_path, keys_file=tmp_path / "keys.toml")
    with connected(site) as http:
        for headers in ({}, {"authorization": "Basic x"}, by("nothing"), by("late"), by("asker")):
            http.get("/v1/adapters", headers=headers)
        http.get("/v1/adapters", headers=by("reader"))
        http.get("/livez")
        counts = {"missing": 2, "unknown": 1, "expired": 1, "scope": 1, "task": 0}

        def counted() -> dict[str, float]:
            return {
                reason: site.metric("jumplora_auth_refusals_total", reason=reason)
                for reason in counts
            }

        wait_for(lambda: counted() == counts)


@pytest.mark.parametrize(
    ("name", "key", "scopes", "tasks", "may_change"),
    [
        ("reader", "api", ["read"], ["mine*"], False),
        ("publisher", "admin", ["admin"], ["mine*"], True),
    ],
)
def test_the_overview_says_what_the_key_may(
    http: httpx.Client, name: str, key: str, scopes: list[str], tasks: list[str], may_change: bool
) -> None:
    seen = Overview.model_validate(http.get("/v1/overview", headers=by(name)).json())
    strip = seen.server
    assert (strip.keys, strip.key, strip.key_id) == (["api", "admin"], key, name)
    assert (strip.key_scopes, strip.key_tasks, strip.may_change) == (scopes, tasks, may_change)
    assert [line.task_id for line in seen.tasks] == ["mine"]
    assert http.get("/v1/overview", headers=by("asker")).status_code == 403


def test_a_file_with_faults_is_seen_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    write_keys(file)
    site = make_site(tmp_path, keys_file=file)
    keys = site.parts.services.keys
    with connected(site) as http:
        assert http.get("/readyz").json()["status"] == "ok"
        assert site.metric("jumplora_keys_fault") == 0
        file.write_text('[[keys]]\nid = "of-a-tenant"\n')
        keys.reload()
        wait_for(lambda: keys.fault is not None)
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert "keys of before hold" in ready.json()["checks"]["keys"]
        assert "of-a-tenant" not in ready.text, "a probe needs no key"
        assert "of-a-tenant" in str(keys.fault)
        assert site.metric("jumplora_keys_fault") == 1
        assert http.get("/v1/adapters", headers=by("reader")).status_code == 200
        write_keys(file, "scraper")
        keys.reload()
        wait_for(lambda: keys.fault is None)
        assert http.get("/v1/adapters", headers=by("reader")).status_code == 401
        assert http.get("/metrics", headers=by("scraper")).status_code == 200
        assert site.metric("jumplora_keys_fault") == 0


def test_quotas_follow_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"

    def write(**quotas: int | None) -> None:
        """The key "other", and "limited" with each of the quotas that it is given."""
        entries = [entry_text("other", [hash_of("other")], ["infer", "metrics"])]
        if quotas:
            entries += [entry_text("limited", [hash_of("limited")], ["infer"], quotas=quotas)]
        file.write_text("\n".join(entries))

    write(requests_per_minute=1)
    site = make_site(tmp_path, keys_file=file)
    services = site.parts.services
    with connected(site) as http:
        site.publish("alpha")

        def reload() -> None:
            before = services.keys.keyring
            services.keys.reload()
            wait_for(lambda: services.keys.keyring is not before)

        def ask() -> httpx.Response:
            body = {"task_id": "alpha", "inputs": "x"}
            return http.post("/generate", json=body, headers=by("limited"))

        series = {"key": "limited", "reason": "requests"}
        assert [ask().status_code, ask().status_code] == [200, 429]
        assert site.metric("jumplora_key_rejections_total", **series) == 1
        write(requests_per_minute=2, rows=4)
        reload()
        refused = ask()
        assert refused.status_code == 429, "what was used before the change is used"
        assert "this key may use 2 prompts" in refused.text
        write()
        reload()
        assert ask().status_code == 401
        found = services.metrics.registry.get_sample_value("jumplora_key_rejections_total", series)
        assert found is None
        write(requests_per_minute=1)
        reload()
        assert ask().status_code == 200, "a key that comes anew has used nothing"
        assert services.quotas.rows("limited") == 0


def test_keys_of_the_environment_hold_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    write_keys(file, "reader")
    with connected(make_site(tmp_path, keys_file=file)) as http:
        assert http.get("/v1/adapters").status_code == 401
        assert http.get("/v1/adapters", headers=by(ADMIN_KEY)).status_code == 200
        assert http.delete("/v1/adapters/none", headers=by(ADMIN_KEY)).status_code == 404
        told = http.delete("/v1/adapters/none", headers=by("reader")).json()["error"]
        assert told == "this key has the scope read; changing adapters takes admin"


def test_a_key_at_two_places_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(entry_text("twice", [hash_of(ADMIN_KEY)], ["infer"]))
    with pytest.raises(KeysFault, match="JUMPLORA_ADMIN_KEYS has this one, too"):
        make_site(tmp_path, keys_file=tmp_path / "keys.toml")


def test_a_route_that_the_table_lacks_is_open_to_no_key(tmp_path: Path) -> None:
    site = make_site(tmp_path, api_keys="an-api-key")

    @site.app.get("/forgotten")
    async def forgotten() -> str:
        return "secret"

    with connected(site) as http:
        for method in ("GET", "HEAD"):
            for key, status in ((None, 401), ("an-api-key", 403), (ADMIN_KEY, 403)):
                headers = by(key) if key else {}
                assert http.request(method, "/forgotten", headers=headers).status_code == status
        assert http.get("/not/there", headers=by("an-api-key")).status_code == 404
        assert http.get("/generate", headers=by("an-api-key")).status_code == 405

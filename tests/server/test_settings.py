"""Settings: names, bounds, keys, and what a wrong one is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from jumplora_server.setting_groups import PANELS, in_panels, panel_of, parse_bytes
from jumplora_server.settings import (
    CLIENT_KEYS,
    Settings,
    SettingsError,
    key_hash,
    load_settings,
    service_keys,
    unknown_keys,
)


@pytest.fixture(autouse=True)
def _no_keys_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for key in list(os.environ):
        if key.upper().startswith("JUMPLORA_"):
            monkeypatch.delenv(key)


def load(**flags: object) -> Settings:
    return load_settings(**{"backbone": "b", "store": "s", **flags})


def test_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.store == Path("s")
    assert (settings.allow_base, settings.admin_keys, settings.api_keys) == ("no", (), ())


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_PORT", "9000")
    monkeypatch.setenv("JUMPLORA_MAX_ROWS", "4")
    settings = load(port="9001")
    assert (settings.port, settings.max_rows) == (9001, 4)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("512MiB", 536_870_912),
        ("1.5 GB", 1_500_000_000),
        ("64k", 64_000),
        ("64KiB", 65_536),
        ("123", 123),
        (7, 7),
    ],
    ids=str,
)
def test_bytes(given: object, expected: int) -> None:
    assert parse_bytes(given) == expected


@pytest.mark.parametrize("given", ["-0.1", "75", "nan"])
def test_a_canary_floor_is_a_share(given: str) -> None:
    assert 0 < load().canary_floor < 1
    assert load(canary_floor="0").canary_floor == 0
    with pytest.raises(SettingsError, match="JUMPLORA_CANARY_FLOOR"):
        load(canary_floor=given)


@pytest.mark.parametrize(
    ("name", "given"),
    [("fold", "sometimes"), ("fold_share", "0"), ("fold_share", "1.01"), ("fold_share", "nan")],
)
def test_folding(name: str, given: str) -> None:
    assert (load().fold, load().fold_share) == ("auto", 0.75)
    with pytest.raises(SettingsError, match=f"JUMPLORA_{name.upper()}: "):
        load(**{name: given})


@pytest.mark.parametrize("given", ["", "MiB", "-1MiB", "1 parsec", "1e9", "0x10"], ids=repr)
def test_bytes_that_are_none(given: str) -> None:
    with pytest.raises(SettingsError, match=r"JUMPLORA_MAX_ADAPTER_BYTES.*512MiB"):
        load(max_adapter_bytes=given)


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("JUMPLORA_PROT", "JUMPLORA_PORT"),
        ("JUMPLORA_ADMIN_KEY", "JUMPLORA_ADMIN_KEYS"),
        ("jumplora_max_row", "JUMPLORA_MAX_ROWS"),
        ("JUMPLORA_QQQQQQQQQQQQQQQQQQQQQ", None),
    ],
)
def test_unknown_keys_have_a_closest_name(key: str, closest: str | None) -> None:
    assert unknown_keys({key: "1", "JUMPLORA_PORT": "1", "OTHER": "x"}) == {key: closest}


def test_unknown_keys_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_STOER", "/x")
    with pytest.raises(
        SettingsError, match="JUMPLORA_STOER is not a setting; did you mean JUMPLORA_STORE"
    ):
        load()


def test_the_clients_keys_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_SERVER", "http://x")
    monkeypatch.setenv("JUMPLORA_KEY", "secret-key")
    load()


def service(name: str, *ports: tuple[int, str, str]) -> dict[str, str]:
    """What Kubernetes sets in each pod for a Service: (port, protocol, the port's name)."""
    prefix = name.upper().replace("-", "_")
    number, protocol, _ = ports[0]
    made = {
        f"{prefix}_SERVICE_HOST": "10.0.0.11",
        f"{prefix}_SERVICE_PORT": str(number),
        f"{prefix}_PORT": f"{protocol}://10.0.0.11:{number}",
    }
    for number, protocol, label in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        made |= {
            one: f"{protocol}://10.0.0.11:{number}",
            f"{one}_PROTO": protocol,
            f"{one}_PORT": str(number),
            f"{one}_ADDR": "10.0.0.11",
        }
        if label:
            made[f"{prefix}_SERVICE_PORT_{label.upper().replace('-', '_')}"] = str(number)
    return made


DNS_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
PORTS = st.lists(
    st.tuples(
        st.integers(1, 65535), st.sampled_from(["tcp", "udp", "sctp"]), st.just("") | DNS_LABEL
    ),
    min_size=1,
    max_size=3,
)


@hypothesis.given(st.just("jumplora") | DNS_LABEL.map("jumplora-{}".format), PORTS)
def test_the_variables_of_a_kubernetes_service_are_no_settings(
    name: str, ports: list[tuple[int, str, str]]
) -> None:
    made = service(name, *ports)
    assert service_keys(made) == tuple(sorted(made))
    assert unknown_keys(made) == {}


def test_no_setting_is_taken_for_a_service() -> None:
    names = [f"JUMPLORA_{name.upper()}" for name in Settings.model_fields]
    for value in ("8000", "/srv/store", "on"):
        assert service_keys(dict.fromkeys([*names, *CLIENT_KEYS], value)) == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("JUMPLORA_PORT", "8001"),
        ("JUMPLORA_STORE_PORT", "8001"),
        ("JUMPLORA_PORT_TCP", "tcp://10.0.0.1:1"),
        ("JUMPLORA_PORT_8000_HTTP", "1"),
        ("JUMPLORA_HOST", "tcp://10.0.0.1:1"),
        ("JUMPLORA_SERVICE", "1"),
        ("JUMPLORAX_SERVICE_HOST", "1"),
        ("jumplora_service_host", "1"),
    ],
)
def test_other_variables_are_not_a_services(key: str, value: str) -> None:
    assert service_keys({key: value}) == ()


def test_a_service_of_our_name_leaves_the_port_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in service("jumplora", (80, "tcp", "http")).items():
        monkeypatch.setenv(key, value)
    for key, value in service("jumplora-store", (2049, "tcp", "")).items():
        monkeypatch.setenv(key, value)
    assert load().port == 8000
    assert load(port="9001").port == 9001
    monkeypatch.setenv("JUMPLORA_PORT", "9002")
    assert load().port == 9002


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_PORT", "99999")
    with pytest.raises(SettingsError) as caught:
        load_settings(dtype="float8", nonsense="1")
    lines = str(caught.value).splitlines()
    assert [line.split()[0].rstrip(":") for line in lines] == [
        "JUMPLORA_BACKBONE",
        "JUMPLORA_DTYPE",
        "JUMPLORA_PORT",
        "JUMPLORA_STORE",
        "nonsense",
    ]
    assert "--backbone" in lines[0]
    assert "'int8'" in lines[1]
    assert "'99999'" in lines[2]
    assert "65535" in lines[2]


def test_keys_are_split_hashed_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = hashlib.sha256(b"second-key").hexdigest()
    monkeypatch.setenv("JUMPLORA_ADMIN_KEYS", f"first-key, sha256:{hashed}")
    settings = load()
    assert settings.key_hashes("admin") == (hashlib.sha256(b"first-key").hexdigest(), hashed)
    assert settings.key_hashes("api") == ()
    assert "first-key" not in repr(settings)


def test_a_short_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_ADMIN_KEYS", "long-enough")
    monkeypatch.setenv("JUMPLORA_API_KEYS", "long-enough, hunter2, hunter3")
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.lines == ("JUMPLORA_API_KEYS: a key needs at least 8 characters",)


def test_key_hash_of_a_hash_is_that_hash() -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    assert key_hash(f"SHA256:{digest.upper()}") == digest == key_hash("key")


def test_a_request_is_no_longer_than_a_tasks_share() -> None:
    settings = load(max_inputs="64", max_queued_requests="16", task_share="0.5")
    assert (settings.requests_per_task, settings.prompts_per_request) == (6, 6)
    assert load().prompts_per_request == 64


def test_every_setting_is_in_one_group() -> None:
    assert sorted(in_panels()) == sorted(Settings.model_fields)
    assert {panel_of(name) for name in Settings.model_fields} == set(PANELS.values())
    with pytest.raises(KeyError):
        panel_of("nothing")

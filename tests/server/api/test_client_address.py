"""Whose address the logs name, whatever a client sends."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.api.client_address import MAX_HOPS, Proxies
from jumplora_server.settings import Settings, SettingsError, load_settings

PROXIES = Proxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def client(proxies: Proxies, peer: str, *fields: str) -> str:
    headers = [(b"x-forwarded-for", field.encode()) for field in fields]
    return proxies.client_of({"client": (peer, 1), "headers": [(b"host", b"x"), *headers]})


@pytest.mark.parametrize(
    ("peer", "fields", "expected"),
    [
        pytest.param("203.0.113.9", ["198.51.100.1"], "203.0.113.9", id="spoofed by a client"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="no field"),
        pytest.param("10.0.0.1", [""], "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="one proxy"),
        pytest.param("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1", id="spoofed before"),
        pytest.param("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1", id="two proxies"),
        pytest.param("10.0.0.1", ["1.1.1.1,198.51.100.1,10.0.0.2"], "198.51.100.1", id="all three"),
        pytest.param("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="a client that is inside"),
        pytest.param("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1", id="two fields"),
        pytest.param("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1", id="port"),
        pytest.param("10.0.0.1", ["2001:db8::7"], "2001:db8::7", id="IPv6"),
        pytest.param("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7", id="IPv6 in brackets"),
        pytest.param("10.0.0.1", ["[2001:DB8:0::7]:4711"], "2001:db8::7", id="IPv6 with a port"),
        pytest.param("fd00::1", ["198.51.100.1"], "198.51.100.1", id="an IPv6 proxy"),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="mapped proxy"),
        pytest.param("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1", id="mapped client"),
        pytest.param("10.0.0.1", ["::ffff:10.0.0.2"], "10.0.0.2", id="mapped second proxy"),
        pytest.param("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1", id="unknown"),
        pytest.param("10.0.0.1", ["198.51.100.1, _hidden, 10.0.0.2"], "10.0.0.2", id="a name"),
        pytest.param("10.0.0.1", ["198.51.100.1,"], "10.0.0.1", id="empty at the end"),
        pytest.param("10.0.0.1", ["fe80::1%\x1b[31m"], "10.0.0.1", id="zone"),
        pytest.param("10.0.0.1", ["1.2.3"], "10.0.0.1", id="half an address"),
        pytest.param("10.0.0.1", ["1.2.3.4:x"], "10.0.0.1", id="no port"),
        pytest.param("10.0.0.1", ["<script>"], "10.0.0.1", id="markup"),
        pytest.param("10.0.0.1", [", ".join(["1.1.1.1"] * 500)], "1.1.1.1", id="many"),
        pytest.param("somewhere", ["198.51.100.1"], "somewhere", id="a peer without an address"),
    ],
)
def test_the_rightmost_that_is_no_proxy(peer: str, fields: list[str], expected: str) -> None:
    assert client(PROXIES, peer, *fields) == expected


def test_without_proxies_the_field_is_not_read() -> None:
    assert client(Proxies(), "10.0.0.1", "198.51.100.1") == "10.0.0.1"
    assert client(Proxies(), "::ffff:10.0.0.1", "198.51.100.1") == "10.0.0.1"
    assert Proxies().client_of({"client": None, "headers": []}) == "-"


def test_a_few_hops_are_looked_at() -> None:
    hops = ", ".join(["198.51.100.1", *["10.0.0.2"] * MAX_HOPS])
    assert client(PROXIES, "10.0.0.1", hops) == "10.0.0.2"


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_no_field_makes_a_text_that_is_no_address(fields: list[bytes]) -> None:
    headers = [(b"x-forwarded-for", field) for field in fields]
    found = PROXIES.client_of({"client": ("10.0.0.1", 1), "headers": headers})
    assert set(found) <= set("0123456789abcdef.:")


def test_the_setting() -> None:
    settings = Settings(backbone="b", store="s", trusted_proxies=" 10.0.0.7, fd00::/8 ,")
    assert settings.proxies == (ip_network("10.0.0.7"), ip_network("fd00::/8"))
    for wrong in ("10.0.0.1/8", "proxy.example", "10.0.0.0/33"):
        with pytest.raises(SettingsError, match=r"JUMPLORA_TRUSTED_PROXIES: .*10\.1\.0\.0/16"):
            load_settings(backbone="b", store="s", trusted_proxies=wrong)

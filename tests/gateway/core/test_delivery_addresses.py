"""Which addresses and URLs are never delivered to."""

import pytest

from podpair.gateway.core.deliveries.addresses import networks_of, why_refused
from podpair.gateway.core.deliveries.urls import InvalidUrl, UrlRules, check_url

REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.0.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1",
    "5f00::1", "fc00::1", "fd12:3456::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:4700::1111%1", "fec0::1",
    "ff02::1", "localhost", "", "8.8.8", "010.0.0.1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "223.255.255.254", "2606:4700::1111",
          "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert why_refused(address) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    assert why_refused(address) is None


def test_networks_that_are_allowed() -> None:
    allowed = networks_of(["10.1.0.0/16", "fd00::/8"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert why_refused(address, allowed) is None
    for address in ("10.2.0.1", "127.0.0.1", "fe80::1", "::ffff:10.2.0.1"):
        assert why_refused(address, allowed) is not None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/x?y=1", "example.com:443"),
        ("https://EXAMPLE.com", "example.com:443"),
        ("https://xn--bcher-kva.example:443/", "xn--bcher-kva.example:443"),
        ("https://8.8.8.8/", "8.8.8.8:443"),
        ("https://[2606:4700::1111]/", "[2606:4700::1111]:443"),
    ],
)
def test_a_plain_url_is_taken(url: str, host: str) -> None:
    assert check_url(url, UrlRules()) == host


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/hosts", "//example.com", "example.com", "", "https://",
        "https://user@example.com/", "https://user:hunter2@example.com/", "https://example.com@other.example/",
        "https://example.com:8443/", "https://example.com:0/", "https://example.com:99999/", "https://example.com:x/",
        "https://localhost/", "https://internal/", "https://127.0.0.1/", "https://[::1]/", "https://[fe80::1%25eth0]/",
        "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.01/",
        "https://example.com./", "https://exa_mple.com/", "https://-a.example/", "https://b\u00fccher.example/",
        "https://ex%61mple.com/", "https://example.com\\@other.example/", "https://example.com/#x", "https://example.com/ x",
        "https://example.com/\n", "\thttps://example.com/", "https://example..com/", "https://a.0x1/", "https://[::1/",
        "https://example.com/" + "x" * 2100, "https://169.254.169.254/latest/", "https://\u2460.example/",
    ],
)  # fmt: skip
def test_a_url_with_another_meaning_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl) as refused:
        check_url(url, UrlRules())
    assert "hunter2" not in str(refused.value)


def test_what_settings_allow() -> None:
    rules = UrlRules(allow_http=True, ports=(), allowed=networks_of(["127.0.0.0/8"]))
    assert check_url("http://127.0.0.1:8080/x", rules) == "127.0.0.1:8080"
    assert check_url("http://example.com", rules) == "example.com:80"
    with pytest.raises(InvalidUrl):
        check_url("http://10.0.0.1/", rules)

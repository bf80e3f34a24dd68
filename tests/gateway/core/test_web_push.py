"""Web Push as RFC 8291 and 8292 have it, and what of an event fits into it."""

import base64
import json
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from gateway.deliveries.push_service import Browser, decrypt
from podpair.gateway.core.deliveries.web_push import (
    MOST,
    InvalidPush,
    PushKeys,
    PushOptions,
    check_push,
    load_vapid_key,
    push_request,
    shortened_event,
)

pytestmark = pytest.mark.pure
ENDPOINT = "https://push.example.net/wpush/v2/abc?x=1"


def pem(curve: ec.EllipticCurve | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def test_the_example_of_the_rfc_is_decrypted_by_the_tests() -> None:
    """RFC 8291, 5: the tests' own decryption is right."""

    def raw(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    private = int.from_bytes(raw("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
    browser = Browser(ec.derive_private_key(private, ec.SECP256R1()), raw("BTBZMqHH6r4Tts7J_aSIgg"))
    body = raw(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl"
        "95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    assert decrypt(body, browser) == b"When I grow up, I want to be a watermelon"


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_only_the_browser_reads_it_and_the_push_service_knows_who_sent_it(form: PrivateFormat) -> None:
    browser, now = Browser.new(), 1_700_000_000.5
    key = load_vapid_key(pem(form=form), "mailto:ops@example.com")
    first, headers = push_request(b'{"a":1}', ENDPOINT, browser.keys, key, now)
    second, _ = push_request(b'{"a":1}', "https://other.example:8443/x", browser.keys, key, now)
    assert [decrypt(body, browser) for body in (first, second)] == [b'{"a":1}'] * 2
    assert first[:16] != second[:16]  # salt
    assert first[21:86] != second[21:86]  # the sender's key of this message
    assert headers["Content-Encoding"] == "aes128gcm"
    scheme, _, said = headers["Authorization"].partition(" ")
    token, public = (part.strip()[2:] for part in said.split(","))
    assert (scheme, public) == ("vapid", key.public)
    claims = jwt.decode(token, key.private.public_key(), ["ES256"], audience="https://push.example.net",
                        options={"verify_exp": False})  # fmt: skip
    assert claims == {"aud": "https://push.example.net", "exp": 1_700_043_200, "sub": "mailto:ops@example.com"}
    with pytest.raises(InvalidTag):
        decrypt(first[:-1] + bytes([first[-1] ^ 1]), browser)


def test_the_longest_message_is_4096_bytes() -> None:
    browser, key = Browser.new(), load_vapid_key(pem(), "mailto:ops@example.com")
    body, _ = push_request(b"x" * MOST, ENDPOINT, browser.keys, key, 0)
    assert (len(body), decrypt(body, browser)) == (4096, b"x" * MOST)


@pytest.mark.parametrize("size", [MOST - 200, 5000, 1_000_000])
@pytest.mark.parametrize("odd", ["s", "\x01" * 400, "🌍" * 400])
def test_a_result_that_is_too_long_is_named(size: int, odd: str) -> None:
    data = {"type": "result", "id": odd, "data": "x" * size}
    event: dict[str, Any] = {"type": "podpair.result", "timestamp": "t", "session": odd, "data": data}
    made = shortened_event(msgspec.json.encode(event))
    assert len(made) <= MOST
    said = json.loads(made)
    assert said["type"] == "podpair.result"
    assert said.get("truncated", False) == (len(msgspec.json.encode(event)) > MOST)
    if said.get("truncated") and odd == "s":
        assert said == {
            "type": "podpair.result",
            "timestamp": "t",
            "session": "s",
            "truncated": True,
            "data": {"type": "result", "id": "s"},
        }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"p256dh": ""}, "p256dh"), ({"p256dh": "!!!"}, "p256dh"), ({"auth": "AAAA"}, "auth"), ({"auth": "ä"}, "auth"),
        ({"p256dh": base64.urlsafe_b64encode(b"\x04" + b"\x01" * 64).decode()}, "not on P-256"),
        ({"p256dh": base64.urlsafe_b64encode(b"\x02" + b"\x01" * 64).decode()}, "uncompressed"),
    ],
)  # fmt: skip
def test_keys_that_nothing_can_be_encrypted_for(change: dict[str, str], why: str) -> None:
    keys = Browser.new().keys
    with pytest.raises(InvalidPush, match=why):
        check_push(PushKeys(change.get("p256dh", keys.p256dh), change.get("auth", keys.auth)), PushOptions())


@pytest.mark.parametrize("options", [PushOptions(topic=""), PushOptions(topic="a b"), PushOptions(topic="x" * 33),
                                     PushOptions(ttl_seconds=-1), PushOptions(ttl_seconds=2_419_201)])  # fmt: skip
def test_options_that_push_services_refuse(options: PushOptions) -> None:
    with pytest.raises(InvalidPush):
        check_push(Browser.new().keys, options)


@pytest.mark.parametrize("content", [b"", b"\xff", b"x", pem(ec.SECP384R1())])
def test_a_key_that_is_none_of_web_push(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"PEM|P-256"):
        load_vapid_key(content, "mailto:ops@example.com")


def test_keys_with_and_without_padding_are_taken() -> None:
    keys = Browser.new().keys
    check_push(PushKeys(keys.p256dh + "=" * (-len(keys.p256dh) % 4), keys.auth + "=="), PushOptions())

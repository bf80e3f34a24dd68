"""Whatever a token claims, of whatever type and size, it is taken or refused with a reason: nothing of it is an error of ours."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from gateway.conftest import Refusal
from harness.pair import SECRET, Gateway
from podpair.common.gateway_config.clients import Auth, Sessions
from podpair.gateway.auth.identity import Identity, Unauthorized
from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.core.quotas import Quotas, Rule

EXP = int(time.time()) + 7 * 86_400
HEADER = '{"alg":"HS256","typ":"JWT"}'


def segment(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: str | bytes, header: str = HEADER) -> str:
    """A token over exactly these texts: no library would write them."""
    raw = payload.encode() if isinstance(payload, str) else payload
    unsigned = f"{segment(header.encode())}.{segment(raw)}"
    return f"{unsigned}.{segment(hmac.digest(SECRET.encode(), unsigned.encode(), 'sha256'))}"


def claims(**raw: str) -> str:
    """JSON of claims whose values are given as JSON texts."""
    told = {"sub": '"ann"', "exp": str(EXP)} | raw
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in told.items()) + "}"


_HUGE = "1" + "0" * 400
_DIGITS = "9" * 4400
_DEEP = "[" * 2000 + "]" * 2000
_ODD = ["null", "true", '"x"', "[]", "{}", '[1,"a"]', '{"a":[1]}', "NaN", "Infinity", "-Infinity", "1e999", _HUGE, "-" + _HUGE,
        '"\\ud800"', '"\\u0000"', "1e308", _DEEP]  # fmt: skip

REFUSED: dict[str, tuple[str, str]] = {
    **{f"exp {value[:12]}": (claims(exp=value), "") for value in _ODD},
    **{f"nbf {value[:12]}": (claims(nbf=value), "") for value in ("[]", "{}", '"x"', "Infinity", "NaN", _HUGE, _DEEP)},
    **{f"iat {value[:12]}": (claims(iat=value), "") for value in ("[]", "{}", '"x"', "Infinity", "NaN", _HUGE, _DEEP)},
    **{f"sub {value[:12]}": (claims(sub=value), "") for value in _ODD if value != '"x"'},
    **{f"sid {value[:12]}": (claims(sid=value), "claim sid (auth.session_claim)") for value in _ODD[1:-1] if value != '"x"'},
    "exp is a text": (claims(exp=f'"{EXP}"'), "exp is not a time in Unix seconds"),
    "exp is 10**400": (claims(exp=_HUGE), "exp is not a time in Unix seconds"),
    "exp of too many digits": (claims(exp=_DIGITS), ""),
    "half a surrogate pair": (claims(sub='"a\\udc00b"'), "sub holds control characters or half a surrogate pair"),
    "a line end in sub": (claims(sub='"a\\nb"'), "sub holds control characters"),
    "sub is too long": (claims(sub=f'"{"x" * 1025}"'), "sub is longer than 1024 bytes"),
    "sub is too long in bytes": (claims(sub=f'"{"é" * 600}"'), "sub is longer than 1024 bytes"),
    "sid of 129": (claims(sid=f'"{"x" * 129}"'), "claim sid (auth.session_claim)"),
    "aud of a resume token": (claims(aud='"podpair.resume"'), "that is a resume token"),
    "jti is a list": (claims(jti="[]"), ""),
    "no object": ("[1]", ""),
    "a number": ("5", ""),
    "no JSON": ("{", "not a JWT"),
    "no UTF-8": ("\udcff".encode(errors="surrogateescape").decode("latin-1") + "{", "not a JWT"),
    "nested": (_DEEP * 2, ""),
    "a name twice": ('{"sub":"ann","exp":1,"sub":"bob"}', "has expired"),
}  # fmt: skip


def verifier(**settings: Any) -> TokenVerifier:
    return TokenVerifier(Auth(**({"secret": SECRET, "session_claim": "sid"} | settings)))


def refusal_is_text(error: Unauthorized) -> str:
    """What it says can be written into an answer and a log."""
    said = str(error)
    msgspec.json.encode(said)
    assert 0 < len(said) <= 400
    return said


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused(name: str) -> None:
    payload, said = REFUSED[name]
    with pytest.raises(Unauthorized) as refused:
        await verifier().verify(signed(payload))
    assert said in refusal_is_text(refused.value)


@pytest.mark.parametrize("value", [*_ODD, _HUGE])
@pytest.mark.parametrize("name", ["aud", "iss"])
async def test_an_issuer_and_an_audience_that_are_none(name: str, value: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        await verifier(audience="podpair", issuer="me").verify(
            signed(claims(**{"aud": '"podpair"', "iss": '"me"'} | {name: value}))
        )
    refusal_is_text(refused.value)


@pytest.mark.parametrize(
    "header",
    [
        "[]", "5", "{}", '{"alg":5}', '{"alg":["HS256"]}', '{"alg":{}}', '{"alg":null}', '{"alg":"\\ud800"}',
        '{"alg":"HS256","kid":5}',
        '{"alg":"HS256","kid":["a"]}', '{"alg":"HS256","crit":5}', '{"alg":"HS256","crit":["\\ud800"]}',
        '{"alg":"HS256","crit":[[]]}',
        '{"alg":"HS256","b64":false}', _DEEP * 2, '{"alg":' + _DIGITS + "}",
    ],
)  # fmt: skip
async def test_heads_that_are_none(header: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        await verifier().verify(signed(claims(), header))
    refusal_is_text(refused.value)


@pytest.mark.parametrize(
    "value", [*_ODD, '"' + "x" * 5000 + '"', '["' + '","'.join("x" * 30 for _ in range(200)) + '"]']
)
async def test_claims_that_rules_look_at_may_be_anything(value: str) -> None:
    """A rule for any value concerns every token that has the claim: what can't be read does not free it."""
    try:
        found: Identity = await verifier().verify(signed(claims(tenant=value)))
    except Unauthorized as error:  # as JSON it is no token
        refusal_is_text(error)
        return
    quotas = Quotas([Rule("tenant", in_flight=1), Rule("tenant", "gold", priority="high")])
    grant = quotas.grant(found.claims, 0.0)
    assert (grant is None) == (value == "null")
    if grant is None:
        return
    grant.acquire()
    again = quotas.grant(found.claims, 0.0)
    assert again is not None
    with pytest.raises(Exception, match="are in flight") as refused:
        again.admit("m", "auto", 0.0)
    msgspec.json.encode(str(refused.value))


@pytest.mark.parametrize("value", _ODD)
@pytest.mark.parametrize("name", ["exp", "sub", "sid", "aud", "connection"])
def test_resume_tokens_of_any_claims(name: str, value: str) -> None:
    tokens = ResumeTokens(Sessions(resume_secret=SECRET))  # type: ignore[arg-type]
    token = signed(claims(**{"aud": '"podpair.resume"', "sid": '"s"'} | {name: value}))
    try:
        tokens.open(token, "ann")
    except Unauthorized as error:
        refusal_is_text(error)


@pytest.mark.parametrize(
    "name", ["exp is 10**400", "half a surrogate pair", "exp Infinity", "sub [[[[[[[[[[[[", "sid {}"]
)
async def test_over_the_wire(pair: Gateway, refused: Callable[..., Awaitable[Refusal]], name: str) -> None:
    payload, said = REFUSED[name]
    status, error, _ = await refused(pair, {"Authorization": f"Bearer {signed(payload)}"})
    assert (status, error["code"]) == (401, "unauthorized")
    assert said in error["message"]


@pytest.mark.parametrize("text", ["a\\r\\nb", "a\\u0000b", 'a\\"b', "a\\\\b", "\\u007f", "é"])
async def test_what_stands_in_a_head_breaks_no_header_of_the_answer(
    pair: Gateway, refused: Callable[..., Awaitable[Refusal]], text: str
) -> None:
    """RFC 6750, 3: the description in WWW-Authenticate is printable ASCII without quotes and backslashes."""
    token = signed(claims(), f'{{"alg":"HS256","crit":["{text}"]}}')
    status, _, headers = await refused(pair, {"Authorization": f"Bearer {token}"})
    assert status == 401
    description = headers["WWW-Authenticate"].removeprefix('Bearer error="invalid_token", error_description="')[:-1]
    assert description
    assert all(" " <= letter <= "~" and letter not in '"\\\\' for letter in description)

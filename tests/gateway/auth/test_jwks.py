"""Keys that the issuer publishes: fetched when needed, kept when it is away, and never fetched as often as a stranger likes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.auth.conftest import Clock
from harness.serving import serving
from harness.waiting import soon
from podpair.common.gateway_config.clients import Auth
from podpair.gateway.auth.identity import KeysUnavailable, Unauthorized
from podpair.gateway.auth.tokens import TokenVerifier

KEYS: dict[str, tuple[Any, str]] = {
    "rsa": (rsa.generate_private_key(65537, 2048), "RS256"),
    "ec": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    "new": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
}


def published(name: str, **changed: Any) -> dict[str, Any]:
    key, algorithm = KEYS[name]
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {k: v for k, v in {**public, "kid": name, "use": "sig", **changed}.items() if v is not None}


def sign(kid: str, name: str | None = "", algorithm: str = "") -> str:
    key, own = KEYS[kid]
    headers = {} if name is None else {"kid": name or kid}
    return jwt.encode({"sub": kid, "exp": time.time() + 60}, key, algorithm=algorithm or own, headers=headers)


class Issuer:
    """Publishes `keys`, or whatever `body` is; counts how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Any] = [published("rsa"), published("ec"), published("ed")]
        self.body: str | None = None
        self.moved: str | None = None  # where it says that the keys are now
        self.status = 200
        self.asked = self.answered = 0
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        await self.open.wait()
        self.answered += 1
        if self.moved is not None:
            raise web.HTTPFound(self.moved)
        text = self.body if self.body is not None else json.dumps({"keys": self.keys})
        return web.Response(status=self.status, text=text, content_type="application/octet-stream")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with serving(web.get("/keys", issuer.answer)) as url:
        issuer.url = f"{url}/keys"
        yield issuer


@pytest.fixture
async def verify(issuer: Any, clock: Clock) -> AsyncIterator[Callable[[str], Any]]:
    verifier = TokenVerifier(Auth(jwks_url=issuer.url, jwks_cache_seconds=300))

    async def subject(token: str) -> str:
        return (await verifier.verify(token)).subject

    yield subject
    await verifier.close()


async def asked(issuer: Issuer, times: int) -> None:
    """Until the issuer has been asked so often, and its answer has been taken."""
    await soon(lambda: issuer.answered >= times)
    for _ in range(20):
        await asyncio.sleep(0.005)  # nothing tells that its answer has been taken, nor that it is asked no more


async def refusal(verify: Callable[[str], Any], token: str) -> str:
    with pytest.raises(Unauthorized) as refused:
        await verify(token)
    return str(refused.value)


async def test_each_kind_of_key_and_one_fetch_for_all(issuer: Issuer, verify: Any) -> None:
    found = await asyncio.gather(*(verify(sign(kid)) for kid in ("rsa", "ec", "ed") * 10))
    assert found == ["rsa", "ec", "ed"] * 10
    assert issuer.asked == 1


async def test_keys_are_fetched_again_when_they_age(issuer: Issuer, clock: Clock, verify: Any) -> None:
    await verify(sign("rsa"))
    clock.now += 299
    await verify(sign("rsa"))
    assert issuer.asked == 1
    clock.now += 2
    await verify(sign("rsa"))
    await asked(issuer, 2)


async def test_a_new_key_is_taken_and_an_old_one_goes(issuer: Issuer, clock: Clock, verify: Any) -> None:
    await verify(sign("rsa"))
    issuer.keys = [published("new")]
    clock.now += 11
    assert await verify(sign("new")) == "new"
    assert "kid" in await refusal(verify, sign("rsa"))


async def test_keys_stay_while_the_issuer_is_away(issuer: Issuer, clock: Clock, verify: Any) -> None:
    await verify(sign("rsa"))
    right = json.dumps({"keys": issuer.keys})
    bodies = (
        (None, 500), ("not json", 200), ("[]", 200), ('{"keys": 5}', 200), ('{"keys": []}', 200), (right, 203),
        ("[" * 100_000, 200), (right + " " * (1 << 20), 200),
    )  # fmt: skip
    for count, (body, status) in enumerate(bodies, start=2):
        issuer.body, issuer.status = body, status
        clock.now += 301
        assert await verify(sign("rsa")) == "rsa"
        await asked(issuer, count)
    issuer.body, issuer.status = None, 200
    clock.now += 11
    assert await verify(sign("ec")) == "ec"


@pytest.mark.parametrize(("behind", "status"), [(" " * (1 << 20), 200), ("", 203), ("]", 200)])
async def test_an_answer_that_is_too_large_or_not_good_brings_no_key(
    issuer: Issuer, clock: Clock, verify: Any, behind: str, status: int
) -> None:
    """Not even where it would be one: the keys in hand stay, and no other comes."""
    await verify(sign("rsa"))
    right = json.dumps({"keys": [published("new")]})
    issuer.body, issuer.status = right + behind, status
    clock.now += 11
    assert "kid" in await refusal(verify, sign("new"))
    assert issuer.asked == 2
    assert await verify(sign("rsa")) == "rsa"
    issuer.body, issuer.status = right, 200
    clock.now += 61
    assert await verify(sign("new")) == "new"


async def test_an_issuer_that_says_nothing_is_not_waited_for_for_ever(issuer: Issuer, verify: Any) -> None:
    issuer.open.clear()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(KeysUnavailable):
                await verify(sign("rsa"))
        assert issuer.asked == 1
    finally:
        issuer.open.set()


async def test_a_redirect_of_the_issuers_is_not_followed(issuer: Issuer, verify: Any, caplog: Any) -> None:
    """Whose keys are trusted is the configuration's to say."""
    issuer.moved = "/keys"
    with pytest.raises(KeysUnavailable):
        await verify(sign("rsa"))
    assert issuer.asked == 1
    assert "redirects are not followed" in caplog.text


async def test_an_issuer_that_was_never_there_is_no_fault_of_the_token(
    issuer: Issuer, clock: Clock, verify: Any
) -> None:
    issuer.status = 503
    for _ in range(3):
        with pytest.raises(KeysUnavailable, match="can't be fetched now"):
            await verify(sign("rsa"))
    assert issuer.asked == 1
    issuer.status = 200
    clock.now += 10
    assert await verify(sign("rsa")) == "rsa"


async def test_a_flood_of_unknown_key_ids_is_a_bounded_number_of_fetches(
    issuer: Issuer, clock: Clock, verify: Any
) -> None:
    await verify(sign("rsa"))
    for _ in range(100):
        floods = [refusal(verify, sign("new", f"kid-{n}")) for n in range(5)]
        assert all("kid" in said for said in await asyncio.gather(*floods))
        clock.now += 0.5
    assert issuer.asked <= 1 + 50 / 10 + 1
    assert await verify(sign("ed")) == "ed"


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"use": "enc"}, "kid"), ({"alg": "PS256"}, "for PS256"), ({"alg": "nonsense"}, "kid"), ({"n": "!!!"}, "kid")],
)
async def test_a_key_that_is_not_for_this(issuer: Issuer, verify: Any, changed: dict[str, str], said: str) -> None:
    """And it spoils none of the others."""
    issuer.keys = ["text", 5, {}, {"kty": "oct", "k": "AAAA", "kid": "o"}, published("rsa", **changed), published("ec")]
    assert said in await refusal(verify, sign("rsa"))
    assert await verify(sign("ec")) == "ec"


async def test_the_key_decides_the_algorithm(issuer: Issuer, verify: Any) -> None:
    # Signed by the RSA key, but it names the EC key.
    assert "its key is for ES256" in await refusal(verify, sign("rsa", "ec"))
    # A key of the right kind, but another one.
    assert "signature" in await refusal(verify, sign("new", "ec"))


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_algorithms_that_no_published_key_has(issuer: Issuer, verify: Any, algorithm: str) -> None:
    key = "x" * 40 if algorithm == "HS256" else None
    token = jwt.encode({"sub": "a", "exp": time.time() + 60}, key, algorithm=algorithm, headers={"kid": "rsa"})
    assert "ES512, ES256K, EdDSA is needed" in await refusal(verify, token)
    assert issuer.asked == 0


async def test_nobody_waits_for_keys_that_have_aged(issuer: Issuer, clock: Clock, verify: Any) -> None:
    await verify(sign("rsa"))
    issuer.open.clear()
    clock.now += 301
    assert await asyncio.gather(*(verify(sign("rsa")) for _ in range(50))) == ["rsa"] * 50
    assert issuer.answered == 1  # it has not answered yet
    issuer.keys = [published("new")]
    issuer.open.set()
    await asked(issuer, 2)
    assert issuer.asked == 2
    assert "kid" in await refusal(verify, sign("rsa"))


async def test_a_key_that_was_withdrawn_long_ago_lets_nobody_in(issuer: Issuer, clock: Clock, verify: Any) -> None:
    await verify(sign("rsa"))
    issuer.keys = [published("new")]
    clock.now += 601
    assert "kid" in await refusal(verify, sign("rsa"))


async def test_a_key_id_that_the_issuer_has_not_is_asked_for_once_a_minute(
    issuer: Issuer, clock: Clock, verify: Any
) -> None:
    await verify(sign("rsa"))
    clock.now += 11
    for _ in range(100):
        assert "kid" in await refusal(verify, sign("new"))
        clock.now += 0.5
    assert issuer.asked == 2
    issuer.keys.append(published("new"))
    clock.now += 11
    assert await verify(sign("new")) == "new"


async def test_a_key_id_that_was_unknown_is_known_as_soon_as_its_key_is(
    issuer: Issuer, clock: Clock, verify: Any
) -> None:
    await verify(sign("rsa"))
    clock.now += 11
    assert "kid" in await refusal(verify, sign("new"))
    issuer.keys.append(published("new"))
    clock.now += 11
    assert "kid" in await refusal(verify, sign("ec", "another"))  # this one's fetch brings it
    assert await verify(sign("new")) == "new"

"""Keys and tokens as libraries of issuers make them: each algorithm, and key sets in which not all is of use (RFC 7517)."""

import asyncio
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.conftest import Clock
from harness import environments
from harness.processes import Conversation, output_of
from harness.serving import serving
from harness.waiting import soon
from podpair.common.gateway_config.clients import Auth
from podpair.gateway.auth import jwks as module
from podpair.gateway.auth.identity import KeysUnavailable, Unauthorized
from podpair.gateway.auth.jwk import ALGORITHMS, MOST_TRIED, UnusableKey, key_set, public_key
from podpair.gateway.auth.tokens import TokenVerifier

HERE = Path(__file__).parent
RSA = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
EC = ec.generate_private_key(ec.SECP256R1())
PRIVATE: dict[str, Any] = {
    "RS256": RSA[0], "PS384": RSA[0], "ES256": EC, "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()), "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}  # fmt: skip


def jwk(private: Any, algorithm: str, **changed: Any) -> dict[str, Any]:
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {name: value for name, value in {**public, **changed}.items() if value is not None}


def token(private: Any, algorithm: str, kid: str | None = None) -> str:
    claims = {"sub": "ann", "exp": time.time() + 3600}
    return jwt.encode(claims, private, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


class Issuer:
    url = ""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.status = 200
        self.asked = 0

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"keys": self.keys}, status=self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with serving(web.get("/keys", issuer.answer)) as url:
        issuer.url = f"{url}/keys"
        yield issuer


@pytest.fixture
async def verifier(issuer: Issuer, clock: Clock) -> AsyncIterator[TokenVerifier]:
    verifier = TokenVerifier(Auth(jwks_url=issuer.url))
    yield verifier
    await verifier.close()


async def refusal(verifier: TokenVerifier, signed: str) -> str:
    with pytest.raises(Unauthorized) as refused:
        await verifier.verify(signed)
    return str(refused.value)


@pytest.fixture(scope="module")
def made() -> list[dict[str, Any]]:
    """Keys and tokens of joserfc, jwcrypto and authlib."""
    python = environments.python(HERE / "outside/issuers.lock")
    found: list[dict[str, Any]] = json.loads(output_of(python, HERE / "outside/issuers.py", "keys"))
    return found


@pytest.mark.process
@pytest.mark.timeout(600)
async def test_each_algorithm_of_each_library(made: list[dict[str, Any]], issuer: Issuer, clock: Clock) -> None:
    """With its kid among the keys of all, and without one."""
    assert {key["library"] for key in made} == {"joserfc", "jwcrypto", "authlib"}
    assert {key["algorithm"] for key in made} == {*ALGORITHMS, "Ed448"}
    for library in ("joserfc", "jwcrypto", "authlib"):
        keys = [key for key in made if key["library"] == library]
        issuer.keys = [{"kty": "oct", "kid": "hsm"}, *(key["public"] for key in keys)]
        verifier = TokenVerifier(Auth(jwks_url=issuer.url))
        for key in keys:
            for signed in (key["token"], key["bare"]):
                assert (await verifier.verify(signed)).subject == "ann", (library, key["algorithm"])
        await verifier.close()


@pytest.fixture
def provider() -> Iterator[dict[str, Any]]:
    """An OpenID provider, and what it gave someone who logged in."""
    python = environments.python(HERE / "outside/issuers.lock")
    running = Conversation(python, HERE / "outside/issuers.py", "provider", quiet=True)
    try:
        yield running.read()
    finally:
        running.close()


@pytest.mark.process
@pytest.mark.timeout(600)
async def test_a_token_of_a_login_at_an_openid_provider(provider: dict[str, Any]) -> None:
    """Its ID token names no key."""
    settings = {"issuer": provider["issuer"], "audience": provider["client"]}
    verifier = TokenVerifier(Auth(jwks_url=provider["jwks_url"], **settings))
    assert (await verifier.verify(provider["token"])).subject == provider["subject"]
    head, _, signature = provider["token"].split(".")
    forged = urlsafe_b64encode(json.dumps({"sub": "eve", "exp": 2**40}).encode()).rstrip(b"=").decode()
    assert "signature" in await refusal(verifier, f"{head}.{forged}.{signature}")
    await verifier.close()


GOOD = jwk(RSA[0], "RS256", kid="good")
SHORT = jwk(rsa.generate_private_key(65537, 1024), "RS256", kid="short")
USELESS: dict[str, tuple[Any, str]] = {
    "no object": ("text", "it is no object"),
    "null": (None, "it is no object"),
    "empty": ({}, "its kty is missing"),
    "a secret's place": ({"kty": "oct", "kid": "hsm"}, "kid 'hsm': its kty is 'oct', not RSA, EC or OKP"),
    "a secret": ({"kty": "oct", "kid": "hsm", "k": "AAAA"}, "its kty is 'oct'"),
    "of lattices": ({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, "its kty is 'AKP'"),
    "kty is a list": ({**GOOD, "kty": ["RSA"]}, "its kty is ['RSA']"),
    "kid is a number": ({**GOOD, "kid": 5}, "its kid is no text"),
    "no modulus": ({**GOOD, "n": None}, "its n is missing"),
    "a modulus that is a number": ({**GOOD, "n": 5}, "its n is not base64url"),
    "not base64url": ({**GOOD, "n": GOOD["n"][:-1] + "!"}, "its n is not base64url"),
    "base64": ({**GOOD, "n": "+/" + GOOD["n"][2:]}, "its n is not base64url"),
    "an even exponent": ({**GOOD, "e": "BA"}, "its n, e are no key"),
    "too short": (SHORT, "kid 'short': it is RSA of 1024 bits, 2048 are needed"),
    "no curve": ({**jwk(EC, "ES256"), "crv": None}, "its crv is missing"),
    "an unknown curve": ({**jwk(EC, "ES256"), "crv": "P-192"}, "its crv is 'P-192'"),
    "a curve of another type": ({**jwk(EC, "ES256"), "crv": "Ed25519"}, "its crv is 'Ed25519'"),
    "a point of another curve": ({**jwk(EC, "ES256"), "crv": "P-384"}, "its crv, x, y are no key"),
    "no point of the curve": ({**jwk(EC, "ES256"), "y": jwk(EC, "ES256")["x"]}, "its crv, x, y are no key"),
    "for key agreement": ({"kty": "OKP", "crv": "X25519", "x": "AAAA"}, "its crv is 'X25519'"),
    "a text of no bytes": ({**jwk(EC, "ES256"), "x": "A"}, "its crv, x, y are no key"),
    "half a point": ({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}, "its crv, x are no key"),
    "for encryption": ({**GOOD, "use": "enc"}, "its use is 'enc', not sig"),
    "to encrypt": ({**GOOD, "key_ops": ["encrypt"]}, "its key_ops have no verify"),
    "key_ops is a text": ({**GOOD, "key_ops": "verify"}, "its key_ops have no verify"),
    "alg of encryption": ({**GOOD, "alg": "RSA-OAEP"}, "its alg is 'RSA-OAEP'"),
    "alg of another type": ({**GOOD, "alg": "ES256"}, "its alg is 'ES256'"),
    "alg of another curve": ({**jwk(EC, "ES256"), "alg": "ES384"}, "its alg is 'ES384', not ES256"),
    "alg of a secret": ({**GOOD, "alg": "HS256"}, "its alg is 'HS256'"),
    "alg is a number": ({**GOOD, "alg": 5}, "its alg is 5"),
    "alg none": ({**GOOD, "alg": "none"}, "its alg is 'none'"),
}  # fmt: skip


@pytest.mark.parametrize("name", USELESS)
async def test_a_key_that_is_of_no_use_takes_no_other_with_it(
    issuer: Issuer, verifier: TokenVerifier, caplog: Any, name: str
) -> None:
    useless, said = USELESS[name]
    issuer.keys = [useless, jwk(EC, "ES256", kid="ec")]
    assert (await verifier.verify(token(EC, "ES256", "ec"))).subject == "ann"
    assert said in caplog.text
    assert GOOD["n"][5:] not in caplog.text
    assert verifier.trouble is None


async def test_useless_keys_are_logged_once(issuer: Issuer, verifier: TokenVerifier, clock: Clock, caplog: Any) -> None:
    issuer.keys = [{"kty": "oct", "kid": "hsm"}, GOOD]
    for _ in range(3):
        await verifier.verify(token(RSA[0], "RS256", "good"))
        clock.now += 601
    assert issuer.asked == 3
    assert len([record for record in caplog.records if "hsm" in record.getMessage()]) == 1


async def test_a_set_without_a_key_of_use_says_why(issuer: Issuer, verifier: TokenVerifier, caplog: Any) -> None:
    issuer.keys = [{"kty": "oct", "kid": "hsm"}]
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token(EC, "ES256"))
    assert "none of its keys verifies tokens; kid 'hsm': its kty is 'oct'" in (verifier.trouble or "")
    assert "none of its keys verifies tokens" in caplog.text


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_key_serves_the_algorithms_of_its_kind_and_no_other(
    issuer: Issuer, verifier: TokenVerifier, algorithm: str
) -> None:
    issuer.keys = [jwk(PRIVATE[algorithm], algorithm, kid="k")]
    assert (await verifier.verify(token(PRIVATE[algorithm], algorithm, "k"))).subject == "ann"
    other = "ES256" if algorithm != "ES256" else "ES384"
    assert "its key is for" in await refusal(verifier, token(PRIVATE[other], other, "k"))


async def test_alg_of_a_key_narrows_it(issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.keys = [jwk(RSA[0], "RS256", kid="k", alg="PS512")]
    assert (await verifier.verify(token(RSA[0], "PS512", "k"))).subject == "ann"
    assert "its key is for PS512" in await refusal(verifier, token(RSA[0], "RS256", "k"))


@pytest.mark.parametrize(
    ("curve", "private"), [("Ed25519", PRIVATE["EdDSA"]), ("Ed448", ed448.Ed448PrivateKey.generate())]
)
async def test_alg_of_an_edwards_key_may_name_its_curve(
    issuer: Issuer, verifier: TokenVerifier, curve: str, private: Any
) -> None:
    """RFC 9864."""
    issuer.keys = [jwk(private, "EdDSA", alg=curve)]
    assert (await verifier.verify(token(private, "EdDSA"))).subject == "ann"


async def test_two_keys_of_one_id_are_both_tried(issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.keys = [jwk(private, "RS256", kid="same") for private in RSA[:2]] + [jwk(EC, "ES256", kid="same")]
    for private, algorithm in ((RSA[0], "RS256"), (RSA[1], "PS256"), (EC, "ES256")):
        assert (await verifier.verify(token(private, algorithm, "same"))).subject == "ann"
    assert "signature" in await refusal(verifier, token(RSA[2], "RS256", "same"))
    assert issuer.asked == 1


async def test_tokens_without_an_id_are_tried_with_all_keys_for_their_algorithm(
    issuer: Issuer, verifier: TokenVerifier
) -> None:
    issuer.keys = [jwk(RSA[0], "RS256", kid="a"), jwk(RSA[1], "RS256", kid="b", alg="RS256"), jwk(EC, "ES256", kid="c")]
    for private, algorithm in ((RSA[0], "PS256"), (RSA[1], "RS256"), (EC, "ES256")):
        assert (await verifier.verify(token(private, algorithm))).subject == "ann"
    assert "signature" in await refusal(verifier, token(RSA[1], "PS256"))  # its key is for RS256
    assert "are for RS256" in await refusal(verifier, token(PRIVATE["ES384"], "ES384"))


async def test_keys_without_an_id_are_tried_where_no_key_has_the_tokens(
    issuer: Issuer, verifier: TokenVerifier
) -> None:
    issuer.keys = [jwk(RSA[0], "RS256"), jwk(RSA[1], "RS256"), jwk(RSA[2], "RS256", kid="named")]
    assert (await verifier.verify(token(RSA[1], "RS256", "whatever"))).subject == "ann"
    assert (await verifier.verify(token(RSA[2], "RS256", "named"))).subject == "ann"
    assert "signature" in await refusal(verifier, token(RSA[0], "RS256", "named"))


async def test_a_token_is_tried_with_a_bounded_number_of_keys(issuer: Issuer, verifier: TokenVerifier) -> None:
    others = [jwk(ec.generate_private_key(ec.SECP256R1()), "ES256") for _ in range(MOST_TRIED)]
    issuer.keys = [*others[1:], jwk(EC, "ES256")]
    assert (await verifier.verify(token(EC, "ES256"))).subject == "ann"
    issuer.keys = [*others, jwk(EC, "ES256", kid="last")]
    again = TokenVerifier(Auth(jwks_url=issuer.url))
    assert "signature" in await refusal(again, token(EC, "ES256"))
    assert (await again.verify(token(EC, "ES256", "last"))).subject == "ann"
    await again.close()


async def test_a_key_without_an_id_that_was_replaced_is_fetched(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
) -> None:
    """No unknown kid tells of it; a bad signature does, at most every ten seconds."""
    issuer.keys = [jwk(RSA[0], "RS256")]
    await verifier.verify(token(RSA[0], "RS256"))
    issuer.keys = [jwk(RSA[1], "RS256")]
    assert "signature" in await refusal(verifier, token(RSA[1], "RS256"))
    clock.now += 11
    assert (await verifier.verify(token(RSA[1], "RS256"))).subject == "ann"
    assert issuer.asked == 2
    for _ in range(100):
        assert "signature" in await refusal(verifier, token(RSA[0], "RS256"))
        clock.now += 0.5
    assert issuer.asked <= 2 + 5 + 1


async def test_a_bad_signature_by_a_named_key_asks_nobody(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
) -> None:
    issuer.keys = [GOOD]
    await verifier.verify(token(RSA[0], "RS256", "good"))
    clock.now += 100
    assert "signature" in await refusal(verifier, token(RSA[1], "RS256", "good"))
    assert issuer.asked == 1


async def test_keys_that_are_too_old_let_nobody_in(issuer: Issuer, clock: Clock) -> None:
    verifier = TokenVerifier(Auth(jwks_url=issuer.url, jwks_stale_seconds=3600))
    issuer.keys = [GOOD]
    assert "yet" in (verifier.trouble or "")
    await verifier.verify(token(RSA[0], "RS256", "good"))
    issuer.status = 503
    clock.now += 3600
    await verifier.verify(token(RSA[0], "RS256", "good"))
    assert verifier.trouble is None
    clock.now += 1
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token(RSA[0], "RS256", "good"))
    assert "3601 s old (auth.jwks_stale_seconds): 503" in (verifier.trouble or "")
    issuer.status = 200
    clock.now += 11
    await verifier.verify(token(RSA[0], "RS256", "good"))
    assert verifier.trouble is None
    await verifier.close()


async def test_keys_are_had_before_a_token_needs_them(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer that isn't there is asked again, without a token."""
    monkeypatch.setattr(module, "_FIRST_RETRY", 0.01)
    issuer.status = 503
    issuer.keys = [GOOD]
    verifier = TokenVerifier(Auth(jwks_url=issuer.url))
    keeping = asyncio.create_task(verifier.keep_keys())
    await soon(lambda: issuer.asked >= 2)
    assert "503" in (verifier.trouble or "")
    issuer.status = 200
    await soon(lambda: verifier.trouble is None)
    keeping.cancel()
    await verifier.close()


def test_no_private_part_of_a_key_is_read() -> None:
    """An issuer that publishes one by mistake is not made worse."""
    whole = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA[0]))
    assert "d" in whole
    whole["key_ops"] = ["sign", "verify"]
    key = public_key(whole).key
    assert isinstance(key, rsa.RSAPublicKey)
    assert key == RSA[0].public_key()


@pytest.mark.parametrize("document", [None, [], "keys", {}, {"keys": {}}, {"keys": None}])
def test_what_is_no_set(document: Any) -> None:
    with pytest.raises(ValueError, match="no JWK set"):
        key_set(document)


def test_a_public_key_in_pem_of_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for algorithm, private in PRIVATE.items():
        path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        verifier = TokenVerifier(Auth(public_key_file=path))
        assert asyncio.run(verifier.verify(token(private, algorithm))).subject == "ann"
        assert verifier.trouble is None


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "ES256K"])
def test_coordinates_without_their_leading_zeros(algorithm: str) -> None:
    """They are numbers of a fixed size; some libraries write the number alone."""
    curve = PRIVATE[algorithm].curve
    for secret in range(1, 2000):
        private = ec.derive_private_key(secret, curve)
        whole = jwk(private, algorithm)
        x = urlsafe_b64decode(whole["x"] + "==")
        if x.startswith(b"\0"):
            short = {**whole, "x": urlsafe_b64encode(x.lstrip(b"\0")).rstrip(b"=").decode()}
            assert public_key(short) == public_key(whole)
            return
    pytest.fail("no such key was found")


def test_nothing_that_is_said_of_a_key_is_long() -> None:
    with pytest.raises(UnusableKey) as unusable:
        public_key({"kty": "x" * 100_000})
    assert len(str(unusable.value)) < 200

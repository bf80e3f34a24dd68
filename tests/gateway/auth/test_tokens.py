"""A token is taken when its signature, its algorithm and its claims are all good, and the refusal says which is not."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.clients import Auth
from podpair.gateway.auth.identity import Unauthorized
from podpair.gateway.auth.issue import CannotIssue, development_token
from podpair.gateway.auth.tokens import TokenVerifier

SECRET = "token-secret-0123456789-0123456789-abcd"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def claims(**changed: Any) -> dict[str, Any]:
    """A timedelta is from now: tables are made when the tests are collected, long before some of them run."""
    now = int(time.time())
    told = {"sub": "ann", "exp": now + 60} | changed
    at = {k: now + v.total_seconds() if isinstance(v, timedelta) else v for k, v in told.items()}
    return {k: v for k, v in at.items() if v is not None}


def sign(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers=headers)


def verifier(**settings: Any) -> TokenVerifier:
    return TokenVerifier(Auth(**({"secret": SECRET} | settings)))


async def refusal(token: str | None, **settings: Any) -> str:
    with pytest.raises(Unauthorized) as refused:
        await verifier(**settings).verify(token)
    return str(refused.value)


async def test_a_good_token() -> None:
    found = await verifier().verify(sign(sid="s:1", role="admin"))
    assert (found.subject, found.session, found.claims["role"]) == ("ann", None, "admin")
    assert found.expires_at == pytest.approx(time.time() + 60, abs=2)


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_public_key_file(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(KEYS[algorithm]))
    settings = {"secret": None, "public_key_file": path}
    found = await verifier(**settings).verify(sign(KEYS[algorithm], algorithm))
    assert found.subject == "ann"
    for other, key in KEYS.items():
        if other != algorithm:
            said = await refusal(sign(key, other), **settings)
            assert said.startswith(f"the token is signed with '{other}', but {algorithm}")
            assert said.endswith(" is needed")
    assert "is needed" in await refusal(sign(None, "none"), **settings)


async def test_a_token_signed_with_the_bytes_of_the_public_key(tmp_path: Path) -> None:
    """The algorithm that the key is for decides, not the one that the token names."""
    import hmac
    from base64 import urlsafe_b64encode

    path = tmp_path / "key.pem"
    path.write_bytes(pem(KEYS["RS256"]))
    unsigned = sign().rsplit(".", 1)[0]  # pyjwt itself refuses to sign with a PEM
    for secret in (path.read_bytes(), path.read_bytes().strip()):
        signature = urlsafe_b64encode(hmac.digest(secret, unsigned.encode(), "sha256")).rstrip(b"=").decode()
        said = await refusal(f"{unsigned}.{signature}", secret=None, public_key_file=path)
        needed = "RS256, RS384, RS512, PS256, PS384, PS512"
        assert said == f"the token is signed with 'HS256', but {needed} is needed"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_no_other_algorithm_even_with_the_same_secret(algorithm: str) -> None:
    assert "HS256 is needed" in await refusal(sign(SECRET * 2, algorithm), secret=SECRET * 2)


async def test_alg_none() -> None:
    assert await refusal(sign(None, "none")) == "the token is signed with 'none', but HS256 is needed"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": 1}, "has expired"),
        ({"exp": timedelta(seconds=-12)}, "has expired"),
        ({"nbf": timedelta(seconds=60)}, "not valid yet"),
        ({"iat": timedelta(seconds=60)}, "not valid yet"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": "soon"}, "Expiration Time claim (exp) must be an integer"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "sub is missing or not a text"),
        ({"sub": 5}, "Subject must be a string"),
    ],
)
async def test_bad_claims(changed: dict[str, Any], said: str) -> None:
    assert said in await refusal(sign(**changed))


@pytest.mark.parametrize(
    "changed", [{"exp": timedelta(seconds=-5)}, {"nbf": timedelta(seconds=5)}, {"iat": timedelta(seconds=5)}]
)
async def test_clocks_may_differ_by_the_leeway(changed: dict[str, Any]) -> None:
    assert (await verifier().verify(sign(**changed))).subject == "ann"
    await refusal(sign(**changed), leeway_seconds=1)


@pytest.mark.parametrize(
    ("settings", "changed", "said"),
    [
        ({"issuer": "me"}, {"iss": "you"}, "from another issuer"),
        ({"issuer": "me"}, {}, "lacks the claim iss"),
        ({"audience": "podpair"}, {"aud": "shop"}, "for another audience"),
        ({"audience": "podpair"}, {"aud": ["shop", "blog"]}, "for another audience"),
        ({"audience": "podpair"}, {}, "lacks the claim aud"),
        ({"required_claims": ["sub", "tenant"]}, {}, "lacks the claim tenant"),
    ],
)
async def test_claims_that_the_configuration_asks_for(
    settings: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    assert said in await refusal(sign(**changed), **settings)


async def test_claims_that_are_as_asked() -> None:
    token = sign(iss="me", aud=["shop", "podpair"], tenant=1)
    settings = {"issuer": "me", "audience": "podpair", "required_claims": ["exp", "sub", "tenant"]}
    assert (await verifier(**settings).verify(token)).subject == "ann"
    # What is not asked for is not looked at.
    assert (await verifier().verify(token)).subject == "ann"


async def test_a_token_without_end_where_that_is_allowed() -> None:
    found = await verifier(required_claims=["sub"]).verify(sign(exp=None))
    assert found.expires_at is None


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "..", "\udcff.a.b", "é.é.é", sign()[:-2], sign() + "x", "W10.e30.x", "a" * 100_000]
)
async def test_noise(token: str) -> None:
    assert await refusal(token) in ("the token is not a JWT", "the token's signature is not good")


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token(token: str | None) -> None:
    assert (await refusal(token)).startswith("no token: send Authorization: Bearer")


async def test_the_refusal_repeats_neither_token_nor_secret() -> None:
    for token in (sign("x" * 40), sign(exp=1), "noise-noise-noise"):
        said = await refusal(token)
        assert token not in said
        assert SECRET not in said


async def test_disabled_lets_everyone_in() -> None:
    assert (await verifier(secret=None, disabled=True).verify(None)).subject == "anonymous"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"nonsense", "holds no public key in PEM"),
        (
            pem(ec.generate_private_key(ec.SECP224R1())),
            "neither RSA, EC .P-256, P-384, P-521, secp256k1., Ed25519 nor Ed448",
        ),
        (pem(x25519.X25519PrivateKey.generate()), "holds an unusable key: it is neither RSA"),
        (pem(rsa.generate_private_key(65537, 1024)), "it is RSA of 1024 bits, 2048 are needed"),
        (KEYS["ES256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "holds no public key in PEM"),
    ],
)
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FaultsError, match=said):
        verifier(secret=None, public_key_file=path)


async def test_a_secret_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    assert (await verifier(secret=None, secret_file=path).verify(sign())).subject == "ann"
    path.write_text("short\n")
    with pytest.raises(FaultsError, match="holds 5 bytes, 32 are needed"):
        verifier(secret=None, secret_file=path)


async def test_a_development_token_is_taken() -> None:
    config = Auth(secret=SECRET, issuer="me", audience="podpair", session_claim="tab")  # type: ignore[arg-type]
    token = development_token(config, subject="ann", session="s", seconds=60, claims={"sub": "bob"})
    found = await TokenVerifier(config).verify(token)
    assert (found.subject, found.session) == ("bob", "bob/s")
    with pytest.raises(CannotIssue):
        development_token(Auth(disabled=True), subject="ann", session=None, seconds=60)
    with pytest.raises(CannotIssue, match=r"auth\.session_claim is not set"):
        development_token(Auth(secret=SECRET), subject="ann", session="s", seconds=60)  # type: ignore[arg-type]

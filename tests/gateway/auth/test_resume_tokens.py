"""A resume token continues its session, for its user, until it ends; nothing else does."""

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from podpair.gateway.auth.identity import Unauthorized
from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Auth, Sessions
from podpair.gateway.core.takeovers import Stamp

SECRET = "resume-secret-0123456789-0123456789-abc"
OTHER = "other-secret-0123456789-0123456789-abcd"


def tokens(**settings: Any) -> ResumeTokens:
    return ResumeTokens(Sessions(**({"resume_secret": SECRET} | settings)))


def forge(secret: str | None = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    claims = {"aud": "podpair.resume", "sid": "s", "sub": "ann", "exp": int(time.time()) + 86_400} | changed
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, algorithm=algorithm)


def test_it_is_good_on_every_gateway_with_the_secret() -> None:
    assert tokens().open(tokens().mint("s-1", "ann"), "ann") == ("s-1", Stamp(), "")
    later = Stamp(7, "0a")
    assert tokens().open(tokens().mint("s-1", "ann", later, "ab.3"), "ann") == ("s-1", later, "ab.3")
    assert tokens().shared


def test_without_a_secret_it_is_good_here_only() -> None:
    mine, theirs = tokens(resume_secret=None), tokens(resume_secret=None)
    assert not mine.shared
    assert mine.open(mine.mint("s", "ann"), "ann").session == "s"
    with pytest.raises(Unauthorized, match="not one of ours"):
        theirs.open(mine.mint("s", "ann"), "ann")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (forge(OTHER), "not one of ours"),
        (forge(None, "none"), "not one of ours"),
        (forge(aud="podpair"), "not one of ours"),
        (forge(aud=None), "not one of ours"),
        (forge(sid=None), "not one of ours"),
        (forge(sub=None), "not one of ours"),
        (forge(exp=None), "not one of ours"),
        (forge(exp=int(time.time()) - 1), "has expired: connect without it"),
        (forge(sub="mallory"), "another user's"),
        (forge()[:-3] + "AAA", "not one of ours"),
        ("", "not one of ours"),
        ("noise", "not one of ours"),
        ("\udcff.a.b", "not one of ours"),
    ],
)
def test_anything_else_is_refused(token: str, said: str) -> None:
    with pytest.raises(Unauthorized, match=said):
        tokens().open(token, "ann")


def test_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    token = tokens(resume_seconds=10).mint("s", "ann")
    assert jwt.decode(token, options={"verify_signature": False})["exp"] == pytest.approx(time.time() + 10, abs=2)


async def test_it_is_no_jwt_even_where_both_secrets_are_the_same() -> None:
    """Else its longer life would be the JWT's."""
    with pytest.raises(Unauthorized, match="that is a resume token"):
        await TokenVerifier(Auth(secret=SECRET)).verify(tokens().mint("s", "ann"))  # type: ignore[arg-type]


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    from_file = tokens(resume_secret=None, resume_secret_file=path)
    assert from_file.open(tokens().mint("s", "ann"), "ann").session == "s"
    path.write_text("short")
    with pytest.raises(ConfigError, match="holds 5 bytes, 32 are needed"):
        tokens(resume_secret=None, resume_secret_file=path)

"""A resume token continues its session, for its user, until it ends; nothing else does."""

import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.clients import Auth, Sessions
from podpair.gateway.auth.identity import Unauthorized
from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
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


def test_the_short_form_says_the_same() -> None:
    mint = tokens()
    for session, subject, stamp, epoch in [
        ("s-1", "ann", Stamp(), ""),
        ("ann/λ", "ann", Stamp(1_790_000_000_000_000, "0a1b2c3d4e5f6071"), "8513f5.12"),
        ("s" * 256, "é" * 500, Stamp(2**63, "00"), ""),
    ]:  # fmt: skip
        token = mint.mint(session, subject, stamp, epoch)
        short = mint.short(token)
        assert tokens().open(short, subject) == tokens().open(token, subject) == (session, stamp, epoch)
        assert re.fullmatch("[A-Za-z0-9_-]+", short)
        assert len(short) < len(token)
        with pytest.raises(Unauthorized, match="another user's"):
            tokens().open(short, "mallory")
        with pytest.raises(Unauthorized, match="not one of ours"):
            tokens(resume_secret=OTHER).open(short, subject)


def test_a_changed_short_form_is_refused() -> None:
    short = tokens().short(tokens().mint("s-1", "ann", Stamp(7, "0a"), "ab.3"))
    for at in range(len(short) - 1):  # the last character has bits that say nothing
        changed = short[:at] + ("A" if short[at] != "A" else "B") + short[at + 1 :]
        with pytest.raises(Unauthorized, match="not one of ours"):
            tokens().open(changed, "ann")
    for noise in (short[:-1], short + "A", short * 2, "é", "=", " ", "A" * 5):
        with pytest.raises(Unauthorized, match="not one of ours"):
            tokens().open(noise, "ann")


def test_the_short_form_ends_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    short = tokens(resume_seconds=10).short(tokens(resume_seconds=10).mint("s", "ann"))
    monkeypatch.setattr("podpair.gateway.auth.resume.time.time", lambda: time.monotonic() + 1e10)
    with pytest.raises(Unauthorized, match="has expired: connect without it"):
        tokens().open(short, "ann")


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
    with pytest.raises(FaultsError, match="holds 5 bytes, 32 are needed"):
        tokens(resume_secret=None, resume_secret_file=path)

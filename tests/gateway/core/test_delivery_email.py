"""E-mail made of events, whatever they say."""

import email
import json
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.common.gateway_config.deliveries import Email, is_mailbox
from podpair.gateway.core.deliveries.email import Envelope, MailTemplate, check_mail_template, mailbox_of, make_mail
from podpair.gateway.core.deliveries.templates import InvalidTemplate

pytestmark = pytest.mark.pure

ENVELOPE = Envelope("podpair@example.com", "podpair", "ann@example.com", "msg_1", 1_700_000_000)
TEMPLATE = MailTemplate("{{data.data}}", "{{data.data}} at {{timestamp}}", "<p>{{data.data}}</p>")
HEADERS = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
           "Content-Transfer-Encoding"}  # fmt: skip


def body(data: Any) -> bytes:
    return json.dumps(
        {"type": "podpair.result", "timestamp": "t", "session": "s", "data": {"id": "q", "data": data}}
    ).encode()


def made(data: Any, template: MailTemplate | None = TEMPLATE, envelope: Envelope = ENVELOPE) -> EmailMessage:
    raw = make_mail(body(data), template, envelope)
    assert raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    return cast("EmailMessage", email.message_from_bytes(raw, policy=SMTP))


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return cast("str", part.get_content())


@given(st.text() | st.text("\r\n :,<>@&;=?", max_size=300) | st.lists(st.text(max_size=50), max_size=50))
def test_no_event_adds_a_header_or_markup(data: Any) -> None:
    message = made(data)
    assert set(message.keys()) <= HEADERS
    assert [message[name] for name in ("To", "From")] == ["ann@example.com", "podpair <podpair@example.com>"]
    assert len(message.get_all("Subject", [])) == 1
    assert len(message["Subject"]) <= 200
    inner = text_of(message, "html").strip().removeprefix("<p>").removesuffix("</p>")
    assert not set(inner) & set("<>\"'")


def test_a_line_break_in_an_event_begins_no_header() -> None:
    message = made("x\r\nBcc: eve@example.com\r\n\r\nhello\u2028Cc: eve@example.com")
    assert message["Subject"] == "x Bcc: eve@example.com hello Cc: eve@example.com"
    assert (message["Bcc"], message["Cc"]) == (None, None)


@pytest.mark.parametrize(
    "word",
    [
        "=?utf-7?q?+AA0ACg-Bcc: eve@example.com?=",
        r"=?raw-unicode-escape?q?=5Cu000d=5Cu000aBcc:eve@example.com?=",
        "=?unicode-escape?q?=5Cud800?=",
        "x=?utf-8?q?=0D=0ABcc:_eve@example.com?=",
        "=?utf-8?b?DQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ==?=",
        "=?us-ascii?Q?=FF?=é",
    ],
)
def test_an_encoded_word_in_an_event_is_text(word: str) -> None:
    message = made(word)
    assert set(message.keys()) <= HEADERS
    assert message["Subject"] == word.replace("=?", "= ?")


def test_what_an_e_mail_says() -> None:
    message = made(
        {"label": "Käse & <Brot>"},
        MailTemplate("{{data.data.label}}", "It is {{data.data.label}}.", "<b>{{data.data.label}}</b>"),
    )
    assert message["Subject"] == "Käse & <Brot>"
    assert text_of(message).strip() == "It is Käse & <Brot>."
    assert text_of(message, "html").strip() == "<b>Käse &amp; &lt;Brot&gt;</b>"
    assert message["Message-ID"] == "<msg_1@example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.timestamp() == 1_700_000_000


def test_without_a_template_the_result_is_the_text() -> None:
    message = made("line\nline", None)
    assert (message["Subject"], message.get_content_type()) == ("podpair.result q", "text/plain")
    assert text_of(message).splitlines() == ["line", "line"]


@pytest.mark.parametrize("time", [-(2.0**62), 2.0**62])
def test_an_event_of_any_time_can_be_sent(time: float) -> None:
    assert made("x", envelope=ENVELOPE._replace(time=time))["Date"]


def test_a_large_result_is_cut_and_not_within_an_escaped_character() -> None:
    for more in range(6):
        html = text_of(made("x" * (99_990 + more) + "&&&&"), "html")
        assert len(html) <= 100_100
        assert html.replace("&amp;", "").strip("<p>x…/\n").rstrip() == ""


@pytest.mark.parametrize(
    "template",
    [
        MailTemplate(""),
        MailTemplate("a\nb"),
        MailTemplate("x" * 201),
        MailTemplate(text=""),
        MailTemplate(html="x" * 20_001),
    ],
)
def test_a_template_that_is_no_e_mail(template: MailTemplate) -> None:
    with pytest.raises(InvalidTemplate):
        check_mail_template(template)


@pytest.mark.parametrize("text", ["ann@example.com", "a.b+c@localhost", "a@b.c-d.example", f"{'a' * 64}@example.com"])
def test_a_plain_address_is_one(text: str) -> None:
    assert is_mailbox(text)


@pytest.mark.parametrize(
    "text",
    ["", "ann", "@example.com", "ann@", "a b@example.com", "a@b, c@d", "Ann <a@b.example>", "a@b\r\nRCPT TO:<c@d>", "a@b\n",
     '"a b"@example.com', "a@-b.example", ".a@example.com", "a..b@example.com", "ä@example.com", f"{'a' * 65}@example.com",
     "a@[127.0.0.1]", "a@" + "b" * 64 + ".example", "<a@example.com>"],
)  # fmt: skip
def test_all_else_is_none(text: str) -> None:
    assert not is_mailbox(text)


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"email": "ann@example.com", "email_verified": True}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": "true"}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": False}, None),
        ({"email": "ann@example.com", "email_verified": 2}, None),
        ({"email": "ann@example.com"}, None),
        ({"email": ["ann@example.com"], "email_verified": True}, None),
        ({"email": "ann@example.com, eve@example.com", "email_verified": True}, None),
        ({}, None),
    ],
)
def test_a_token_proves_an_address_or_not(claims: dict[str, Any], found: str | None) -> None:
    assert mailbox_of(claims, Email()) == found


def test_an_issuer_that_says_only_verified_addresses() -> None:
    config = Email(claim="mail", verified_claim="")
    assert mailbox_of({"mail": "ann@example.com"}, config) == "ann@example.com"

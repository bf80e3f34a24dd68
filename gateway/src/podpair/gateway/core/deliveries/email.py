"""E-mail made of an event by a template: a subject, a plain text, and HTML where asked for.

Invariants: nothing that an event says ends a header line or stands as markup; the recipient is the subscription's, never the
event's; the same event has the same Message-ID whoever sends it again.
"""

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, NamedTuple

import msgspec

from podpair.common.gateway_config.deliveries import Email, is_mailbox
from podpair.gateway.core.deliveries.templates import InvalidTemplate, event_fields, fill

_SUBJECT, _TEXT = 200, 100_000  # characters
_LATEST = 4_102_444_800.0  # Unix seconds: 2100; a record may say any time
_LONGEST = 20_000  # characters of a template
# What ends a line for somebody, or is no character at all: controls, separators, halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENTITY_CUT = re.compile(r"&[#a-z0-9]{0,5}$")
_POLICY = SMTP.clone(cte_type="7bit")  # whatever the servers on the way can do


class MailTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscription wants its e-mail to say; `{{path}}` as in Slack's blocks."""

    subject: str = "{{type}} {{data.id}}"
    text: str = "{{content}}\n"
    html: str | None = None


class Envelope(NamedTuple):
    """Whom an e-mail is from and to, its id, and when its event happened."""

    sender: str
    sender_name: str
    recipient: str
    id: str
    time: float  # Unix seconds


def check_mail_template(template: MailTemplate) -> None:
    """Raise InvalidTemplate for one that is too long, or whose subject is no line."""
    if not 0 < len(template.subject) <= _SUBJECT or _CONTROL.search(template.subject):
        raise InvalidTemplate(f"email.subject: one line of 1 to {_SUBJECT} characters")
    for name, text in (("text", template.text), ("html", template.html)):
        if text is not None and not 0 < len(text) <= _LONGEST:
            raise InvalidTemplate(f"email.{name}: 1 to {_LONGEST} characters")


def mailbox_of(claims: Mapping[str, Any], config: Email) -> str | None:
    """Return the address that a token proves to be its subject's; None: it proves none."""
    address = claims.get(config.claim)
    if not isinstance(address, str) or not is_mailbox(address):
        return None
    # Some issuers write the claim as a string.
    verified = not config.verified_claim or claims.get(config.verified_claim) in (True, "true")
    return address if verified else None


def make_mail(body: bytes, template: MailTemplate | None, envelope: Envelope) -> bytes:
    """Make an e-mail of an event. Raises msgspec.MsgspecError or ValueError if it can't be read."""
    wanted, event = template or MailTemplate(), event_fields(body)
    made = EmailMessage(policy=_POLICY)
    made["From"] = Address(envelope.sender_name, addr_spec=envelope.sender)
    made["To"] = Address(addr_spec=envelope.recipient)
    made["Subject"] = _line(fill(wanted.subject, event, _SUBJECT, str))
    made["Date"] = datetime.fromtimestamp(min(max(envelope.time, 0.0), _LATEST), UTC)
    made["Message-ID"] = f"<{envelope.id}@{envelope.sender.partition('@')[2]}>"
    made["Auto-Submitted"] = "auto-generated"  # no absence note comes back (RFC 3834)
    made.set_content(_text(fill(wanted.text, event, _TEXT, str)))
    if wanted.html is not None:
        made.add_alternative(_text(fill(wanted.html, event, _TEXT, html.escape), _ENTITY_CUT), subtype="html")
    return made.as_bytes()


def _line(text: str) -> str:
    # `EmailMessage` reads encoded words (RFC 2047) in what it is given: in one of UTF-7, say, a line could end.
    text = _CONTROL.sub(" ", text).replace("=?", "= ?").strip()
    return (text if len(text) <= _SUBJECT else f"{text[: _SUBJECT - 1]}…") or "podpair"


def _text(text: str, cut: re.Pattern[str] | None = None) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > _TEXT:
        text = text[: _TEXT - 1]
        text = (cut.sub("", text) if cut is not None else text) + "…"
    return _NO_TEXT.sub("", text).removesuffix("\n") + "\n"

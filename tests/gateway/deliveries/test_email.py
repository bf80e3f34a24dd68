"""E-mail through a real SMTP server (aiosmtpd): who gets it, and what happens to what the server refuses."""

import asyncio
import email
import ssl
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from gateway.deliveries.conftest import Publish
from gateway.deliveries.test_subscriptions import ask
from harness.certificates import Authority
from harness.pair import Gateway
from harness.waiting import soon

Start = Callable[..., Gateway]
ANN = {"email": "ann@example.com", "email_verified": True}
PASSWORD = "hidden-password"


class MailServer:
    """Takes mail, over STARTTLS or TLS and after a login if `context` is set; `replies` are what it says next, instead."""

    def __init__(self, context: ssl.SSLContext | None = None, *, at_once: bool = False) -> None:
        self.messages: list[tuple[str, list[str], EmailMessage]] = []  # sender, recipients, message
        self.replies: dict[str, list[str]] = {"MAIL": [], "RCPT": [], "DATA": []}
        self.attempts = 0
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self._context = context
        self._at_once = at_once

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        own = {} if self._context is None else {
            "auth_required": True, "authenticator": self._login, "auth_require_tls": not self._at_once,
        }  # fmt: skip
        if self._context is not None and not self._at_once:
            own |= {"tls_context": self._context, "require_starttls": True}

        def protocol() -> SMTP:
            return SMTP(self, loop=loop, hostname="mail.test", **own)  # type: ignore[arg-type]

        self._server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=self._context if self._at_once else None)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"podpair", PASSWORD.encode())
        return AuthResult(success=good, handled=False)

    def _reply(self, command: str) -> str | None:
        return self.replies[command].pop(0) if self.replies[command] else None

    async def handle_MAIL(  # noqa: N802 - as aiosmtpd calls it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.attempts += 1
        envelope.mail_from = address
        return self._reply("MAIL") or "250 OK"

    async def handle_RCPT(  # noqa: N802 - as aiosmtpd calls it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (reply := self._reply("RCPT")) is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as aiosmtpd calls it
        await self.may_leave.wait()
        return "221 Bye"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as aiosmtpd calls it
        if (reply := self._reply("DATA")) is not None:
            return reply
        content = cast("bytes", envelope.original_content)
        message = cast("EmailMessage", email.message_from_bytes(content, policy=POLICY))
        self.messages.append((cast("str", envelope.mail_from), list(envelope.rcpt_tos), message))
        return "250 OK"


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    server = MailServer()
    await server.start()
    yield server
    await server.stop()


def settings(server: MailServer, **more: Any) -> dict[str, Any]:
    own = {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "podpair@example.org"}
    return {"email": own | more}


async def subscribe_mail(http: aiohttp.ClientSession, gateway: Gateway, **members: Any) -> dict[str, Any]:
    how: dict[str, Any] = {"kind": "email", "url": "", "secret": "", "claims": ANN} | members
    status, made = await ask(http, gateway, **how)
    assert status == 201, made
    return cast("dict[str, Any]", made)


async def test_a_result_is_sent_once_to_the_address_of_the_token(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, publish: Publish
) -> None:
    gateway = start(deliveries=settings(mail, sender_name="Models, Inc."))
    template = {
        "subject": "{{session}}: {{data.data.label}}",
        "text": "Hello\n{{data.data.label}}\n.\nend",
        "html": "<p>{{data.data.label}}",
    }
    made = await subscribe_mail(http, gateway, email=template)
    assert (made["url"], made["email"]) == ("mailto:ann@example.com", template)
    publish("ann/s", b'{"label": "<cat>\\r\\nBcc: eve@example.com"}')
    await soon(lambda: gateway.metric("deliveries_total", kind="email", outcome="delivered") == 1)
    ((sender, recipients, message),) = mail.messages
    assert (sender, recipients) == ("podpair@example.org", ["ann@example.com"])
    assert message["From"] == '"Models, Inc." <podpair@example.org>'
    assert message["Subject"] == "ann/s: <cat> Bcc: eve@example.com"
    assert message["Bcc"] is None
    assert message["Message-ID"].startswith("<msg_")
    plain, html = message.iter_parts()
    assert plain.get_content().splitlines() == ["Hello", "<cat>", "Bcc: eve@example.com", ".", "end"]
    assert html.get_content().startswith("<p>&lt;cat&gt;")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"claims": {}}, "proves no e-mail address"),
        ({"claims": {"email": "ann@example.com", "email_verified": False}}, "proves no e-mail address"),
        ({"url": "mailto:eve@example.com"}, "only the address that the token proves"),
        ({"url": "mailto:ann@example.com,eve@example.com"}, "one plain address"),
        ({"url": "https://example.com/"}, "mailto:"), ({"email": {"subject": ""}}, "email.subject"),
        ({"email": {"headers": "Bcc: x"}}, "headers"), ({"secret": "whsec_x"}, "secret"),
    ],
)  # fmt: skip
async def test_nobody_mails_strangers(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, members: dict[str, Any], why: str
) -> None:
    gateway = start(deliveries=settings(mail))
    how: dict[str, Any] = {"kind": "email", "url": "", "secret": "", "claims": ANN} | members
    status, answer = await ask(http, gateway, **how)
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert why in answer["error"]["message"]


@pytest.mark.parametrize(("command", "reply"), [("RCPT", "450 greylisted"), ("DATA", "451 later"), ("MAIL", "550 policy"),
                                                ("RCPT", "421 closing")])  # fmt: skip
async def test_what_may_go_well_later_is_tried_again(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, publish: Publish, command: str, reply: str
) -> None:
    gateway = start(deliveries=settings(mail))
    await subscribe_mail(http, gateway)
    mail.replies[command] = [reply, reply]
    publish("ann/s", b'"x"')
    await soon(lambda: gateway.metric("deliveries_total", kind="email", outcome="delivered") == 1)
    assert (len(mail.messages), mail.attempts) == (1, 3)


async def test_a_server_that_does_not_say_goodbye_gets_it_once(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, publish: Publish
) -> None:
    gateway = start(deliveries=settings(mail))
    await subscribe_mail(http, gateway)
    mail.may_leave.clear()
    publish("ann/s", b'"x"')
    await soon(lambda: gateway.metric("deliveries_total", kind="email", outcome="delivered") == 1)
    assert (len(mail.messages), gateway.metric("delivery_retries_total")) == (1, 0)


@pytest.mark.parametrize(
    ("command", "reply"), [("RCPT", "550 no such user"), ("DATA", "554 refused"), ("MAIL", "552 too large")]
)
async def test_what_is_refused_for_good_is_a_dead_letter(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, publish: Publish, command: str, reply: str
) -> None:
    gateway = start(deliveries=settings(mail))
    await subscribe_mail(http, gateway)
    mail.replies[command] = [reply]
    publish("ann/s", b'"x"')
    await soon(lambda: gateway.metric("deliveries_total", kind="email", outcome="failed") == 1)
    assert (mail.messages, mail.attempts) == ([], 1)
    publish("ann/s", b'"y"')
    await soon(lambda: len(mail.messages) == 1)


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
@pytest.mark.parametrize("at_once", [False, True])
async def test_over_tls_after_a_login_whose_password_may_change(
    start: Start, http: aiohttp.ClientSession, publish: Publish, tmp_path: Path, at_once: bool
) -> None:
    authority = Authority("authority of the tests")
    issued = authority.issue("mail", ("127.0.0.1",))
    (tmp_path / "both.pem").write_text(issued.key + issued.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")
    password, ca = tmp_path / "password", tmp_path / "ca.pem"
    password.write_text("wrong\n")
    ca.write_text(authority.certificate)
    server = MailServer(context, at_once=at_once)
    await server.start()
    gateway = start(
        deliveries=settings(
            server,
            security="tls" if at_once else "starttls",
            ca_file=str(ca),
            username="podpair",
            password_file=str(password),
        )
    )
    await subscribe_mail(http, gateway)
    publish("ann/s", b'"x"')
    await soon(lambda: gateway.metric("delivery_retries_total", reason="status") >= 1)
    assert server.messages == []
    password.write_text(PASSWORD + "\n")
    await soon(lambda: len(server.messages) == 1)
    assert PASSWORD not in "\n".join(gateway.lines)
    await server.stop()


async def test_a_server_without_tls_gets_nothing_where_tls_is_asked_for(
    start: Start, http: aiohttp.ClientSession, mail: MailServer, publish: Publish
) -> None:
    gateway = start(deliveries=settings(mail, security="starttls"))
    await subscribe_mail(http, gateway)
    publish("ann/s", b'"x"')
    await soon(lambda: gateway.metric("delivery_retries_total", reason="connection") >= 1)
    assert (mail.messages, mail.attempts) == ([], 0)

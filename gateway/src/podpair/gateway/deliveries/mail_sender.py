"""One attempt at a delivery by e-mail: a connection to the SMTP server, and what its answers mean.

Invariants: what the server says about its own state, or about these settings, concerns all e-mail and is tried again; what it
says for good about a message or a recipient ends that delivery. No address, password or text is in a message that is logged.
"""

import asyncio
import logging
import socket
import ssl

import aiosmtplib
import msgspec

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.destinations import MAILTO
from podpair.gateway.core.deliveries.email import Envelope, make_mail
from podpair.gateway.core.deliveries.parcels import Parcel
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.deliveries.attempt import DELIVERED, Attempt

_log = logging.getLogger(__name__)
_LEAVE = 2.0  # seconds that the server may take to say goodbye
_FINAL = 500  # replies from here on are for good (RFC 5321, 4.2.1)
_TOO_LARGE = 552  # also to MAIL, which says the size (RFC 1870)
_CLOSING = 421  # the server ends the connection, whatever the command was


class MailSender:
    """Makes attempts, each with a connection of its own: servers end those that idle, and many take a few messages on one."""

    def __init__(self, config: Deliveries) -> None:
        self._config = config.email
        self._timeout = config.timeout_seconds

    def check_files(self) -> None:
        """Raise FaultsError if a file that the settings name can't be used."""
        try:
            self._read_files()
        except (OSError, ValueError) as error:
            raise FaultsError([f"deliveries.email: {error}"]) from None

    async def attempt(self, subscription: Subscription, parcel: Parcel) -> Attempt:
        """Send the parcel once."""
        sender, host = self._config.sender, self._config.host
        if sender is None or host is None:
            return Attempt("failed", "content", "nothing is sent by e-mail here (deliveries.email.host)")
        recipient = subscription.url.removeprefix(MAILTO)
        envelope = Envelope(sender, self._config.sender_name, recipient, parcel.id, parcel.first / 1000)
        try:
            message = make_mail(parcel.body, subscription.email, envelope)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return Attempt("failed", "content", f"no e-mail can be made of the event: {type(error).__name__}")
        try:
            async with asyncio.timeout(self._timeout):
                client = await self._client(host)
                try:
                    await client.connect()
                    await client.sendmail(sender, [recipient], message)
                except BaseException:
                    client.close()
                    raise
        except (TimeoutError, aiosmtplib.SMTPTimeoutError):
            return Attempt("retry", "timeout", "no answer in time (deliveries.timeout_seconds)", host_failed=True)
        except aiosmtplib.SMTPRecipientsRefused as refused:
            return _about_message(min(one.code for one in refused.recipients))
        except (aiosmtplib.SMTPDataError, aiosmtplib.SMTPRecipientRefused) as error:
            return _about_message(error.code)
        except aiosmtplib.SMTPResponseException as error:  # greeting, HELO, STARTTLS, login, sender
            return _about_server(error)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            text = f"no connection, or it broke: {type(error).__name__}"
            return Attempt("retry", "connection", text, host_failed=True)
        except Exception as error:  # what nobody expects may go well the next time; its age ends it
            _log.exception("an attempt at an e-mail")
            return Attempt("retry", "connection", f"internal error: {type(error).__name__}", host_failed=True)
        await _quit(client)
        return DELIVERED

    async def _client(self, host: str) -> aiosmtplib.SMTP:
        config = self._config
        context, password = await asyncio.get_running_loop().run_in_executor(None, self._read_files)
        return aiosmtplib.SMTP(
            hostname=host, port=config.port, username=config.username, password=password, timeout=self._timeout,
            use_tls=config.security == "tls", start_tls=config.security == "starttls", tls_context=context,
            # Its default looks the machine's name up by DNS, on the loop.
            local_hostname=socket.gethostname(),
        )  # fmt: skip

    def _read_files(self) -> tuple[ssl.SSLContext | None, str | None]:
        """Read the authorities and the password, which may have been renewed. Raises OSError, ValueError."""
        config = self._config
        cafile = str(config.ca_file) if config.ca_file is not None else None
        context = ssl.create_default_context(cafile=cafile) if config.security != "none" else None
        password = config.password_file.read_text().strip() if config.password_file is not None else None
        return context, password


async def _quit(client: aiosmtplib.SMTP) -> None:
    """Take leave. The message is the server's by now: whatever comes of this, it isn't sent again."""
    try:
        async with asyncio.timeout(_LEAVE):
            await client.quit()
    except (TimeoutError, aiosmtplib.SMTPException, OSError):
        client.close()


def _about_server(error: aiosmtplib.SMTPResponseException) -> Attempt:
    """Judge an answer that concerns all e-mail, unless it is to the size of this message."""
    if isinstance(error, aiosmtplib.SMTPSenderRefused) and error.code == _TOO_LARGE:
        return _about_message(error.code)
    return Attempt("retry", "status", f"{type(error).__name__} {error.code}", host_failed=True)


def _about_message(code: int) -> Attempt:
    """Judge an answer that concerns this message or its recipient alone, unless the server is closing."""
    if code >= _FINAL:
        return Attempt("failed", "status", f"SMTP {code}")
    return Attempt("retry", "busy" if code == _CLOSING else "status", f"SMTP {code}", host_failed=code == _CLOSING)

"""TLS on the public port, with a certificate that is renewed while connections live.

Invariant: a certificate and a key that don't fit each other, or can't be read, never replace those that are in force; and a
change concerns handshakes that begin after it, no connection that is there.
"""

import asyncio
import logging
import os
import ssl
from pathlib import Path

from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Http
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds between looks at the files


class Certificate:
    """The certificate of the public port; `context` is for the server. Raises ConfigError where it can't be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._state()
        self._watching: asyncio.Task[None] | None = None
        try:
            self.context = self._made()
        except (OSError, ValueError) as error:
            raise ConfigError(
                [f"http.certificate_file {certificate} with http.key_file {key}: {_why(error)}"]
            ) from None

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        # A key that needs a passphrase must not make the gateway ask a terminal for it.
        context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        return context

    def _state(self) -> tuple[object, ...]:
        """What changes when a file is written, replaced, or its symbolic link turned to another (as in a mounted Secret)."""
        state: list[object] = []
        for path in (self._certificate, self._key):
            try:
                found = os.stat(path)
            except OSError as error:
                state.append(error.errno)
            else:
                state.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(state)

    def watch(self, metrics: Metrics) -> None:
        """From now on take what the files hold, whenever they change."""
        self._watching = asyncio.create_task(self._watch(metrics))

    async def _watch(self, metrics: Metrics) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            state = self._state()
            if state != self._seen:
                self._seen = state
                taken = self.reload()
                metrics.certificates.labels("taken" if taken else "refused").inc()

    def reload(self) -> bool:
        """Take what the files hold now; False, with a word in the log, where that is no good."""
        try:
            self._made()
            self.context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            _log.error("keeping the certificate that is in force: %s: %s", self._certificate, _why(error))
            return False
        _log.info("took a new certificate from %s", self._certificate)
        return True

    async def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)


def certificate_of(config: Http) -> Certificate | None:
    """The certificate that the configuration names, if it wants TLS. Raises ConfigError."""
    if config.certificate_file is None or config.key_file is None:
        return None
    return Certificate(config.certificate_file, config.key_file)


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted: give it without a passphrase")


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate chain and its key in PEM ({error.reason or 'they cannot be read'})"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)

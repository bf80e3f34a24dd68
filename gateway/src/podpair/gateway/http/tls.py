"""TLS on the public port, with a certificate that is reloaded while connections live.

Invariant: a certificate and a key that don't match, or can't be read, never replace those in use; and a change affects only
handshakes that begin after it.
"""

import asyncio
import logging
import os
import ssl
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.clients import Http
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import cancel_task

_log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds between checks of the files


class Certificate:
    """The certificate of the public port; `context` is for the server, `expires` is when it ends, in seconds since
    1970. Raises FaultsError if it can't be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._state()
        self._watching: asyncio.Task[None] | None = None
        try:
            self.context = self._made()
            self.expires = self._expiration()
        except (OSError, ValueError) as error:
            raise FaultsError(
                [f"http.certificate_file {certificate} with http.key_file {key}: {_why(error)}"]
            ) from None

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        # A key with a passphrase must not make the gateway prompt for it.
        context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        return context

    def _expiration(self) -> float:
        """Return when the server's own certificate, the first of the chain, ends, in seconds since 1970."""
        return load_pem_x509_certificate(self._certificate.read_bytes()).not_valid_after_utc.timestamp()

    def _state(self) -> tuple[object, ...]:
        """Return a value that changes when a file is written or replaced, or a symbolic link moves (as in a mounted Secret)."""
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
        """Reload the files whenever they change, and export when the certificate ends."""
        metrics.tls_expiration.set_function(lambda: self.expires)
        self._watching = asyncio.create_task(self._watch(metrics))

    async def _watch(self, metrics: Metrics) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            state = self._state()
            if state != self._seen:
                self._seen = state
                taken = self.reload()
                metrics.tls_reloads.labels("success" if taken else "failure").inc()

    def reload(self) -> bool:
        """Reload the files. Return False, and log the reason, if they are invalid."""
        try:
            self._made()
            expires = self._expiration()
            self.context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            _log.error("keeping the present certificate: %s: %s", self._certificate, _why(error))
            return False
        self.expires = expires
        _log.info("loaded a new certificate from %s", self._certificate)
        return True

    async def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            await cancel_task(self._watching)


def certificate_of(config: Http) -> Certificate | None:
    """Return the configured certificate; None: no TLS. Raises FaultsError."""
    if config.certificate_file is None or config.key_file is None:
        return None
    return Certificate(config.certificate_file, config.key_file)


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted: give it without a passphrase")


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate chain and its key in PEM ({error.reason or 'they cannot be read'})"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)

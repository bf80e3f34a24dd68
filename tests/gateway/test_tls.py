"""The public port speaks TLS; a renewed certificate is taken while connections live on."""

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.conftest import ROW, Client, Connect
from harness.certificates import Authority, Issued
from harness.pair import Gateway, Inference
from harness.waiting import soon

HOSTS = ("127.0.0.1",)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("podpair test clients")


def write(folder: Path, issued: Issued) -> dict[str, str]:
    """As a mounted Secret changes: a new folder, and a link turned to it in one step."""
    made = folder / f"data-{len(list(folder.iterdir()))}"
    made.mkdir()
    (made / "tls.crt").write_text(issued.certificate)
    (made / "tls.key").write_text(issued.key)
    (folder / "new").symlink_to(made)
    (folder / "new").rename(folder / "live")
    return {"certificate_file": str(folder / "live" / "tls.crt"), "key_file": str(folder / "live" / "tls.key")}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    return folder


@pytest.fixture
def secured(authority: Authority, files: Path, inference: Inference, start_gateway: Callable[..., Gateway]) -> Gateway:
    http = write(files, authority.issue("gateway", HOSTS))
    gateway = start_gateway(
        {
            "http": http,
            "kafka": {"embedded": True},
            "inference": {"url": inference.url},
            "limits": {"message_bytes": 4096},
        }
    )
    gateway.context = ssl.create_default_context(cadata=authority.certificate)
    gateway.wait_ready()
    return gateway


def serial(client: Client) -> int:
    """Of the certificate that the client's connection was made with."""
    shown = client.socket.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


def serial_of(issued: Issued) -> int:
    return x509.load_pem_x509_certificate(issued.certificate.encode()).serial_number


async def test_a_session_over_tls(secured: Gateway, connect: Connect) -> None:
    assert secured.ws.startswith("wss://")
    client = await connect(secured)
    for route in ("direct", "queue"):
        await client.infer(route, route=route)
        assert (await client.answer(route))["type"] == "result"
    assert client.socket.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    await client.send(json.dumps({"type": "infer", "id": "x", "model": "digits", "data": ROW * 1000}))
    assert await client.closed() == 1009


async def test_a_new_certificate_is_taken_and_no_connection_is_dropped(
    secured: Gateway, authority: Authority, files: Path, connect: Connect
) -> None:
    old = await connect(secured)
    renewed = authority.issue("gateway", HOSTS)
    write(files, renewed)
    await soon(lambda: secured.metric("tls_reloads_total", outcome="success") == 1)
    new = await connect(secured)
    assert serial(new) == serial_of(renewed) != serial(old)
    for client in (old, new):
        await client.lives()


@pytest.mark.parametrize("what", ["noise", "another's key", "nothing"])
async def test_what_is_no_certificate_is_not_taken(
    secured: Gateway, authority: Authority, files: Path, connect: Connect, what: str
) -> None:
    before = await connect(secured)
    good = authority.issue("gateway", HOSTS)
    if what == "nothing":
        os.unlink(files / "live")
    else:
        write(files, Issued("noise", "noise") if what == "noise" else good._replace(key=authority.issue("x").key))
    await soon(lambda: secured.metric("tls_reloads_total", outcome="failure") >= 1)
    after = await connect(secured)
    assert serial(after) == serial(before)
    await asyncio.to_thread(secured.wait_for_message, "keeping the present certificate")
    write(files, good)
    await soon(lambda: secured.metric("tls_reloads_total", outcome="success") == 1)
    assert serial(await connect(secured)) == serial_of(good)


def test_what_can_not_be_used_is_told_at_start(authority: Authority, tmp_path: Path) -> None:
    from podpair.common.faults import FaultsError
    from podpair.gateway.http.tls import Certificate

    issued = authority.issue("gateway", HOSTS)
    (tmp_path / "tls.crt").write_text(issued.certificate)
    (tmp_path / "noise").write_text("noise")
    (tmp_path / "locked").write_text(_locked(issued.key))
    cases: dict[str, str] = {"missing": "No such file", "noise": "in PEM", "locked": "without a passphrase"}
    for name, said in cases.items():
        with pytest.raises(FaultsError, match=said) as refused:
            Certificate(tmp_path / "tls.crt", tmp_path / name)
        assert refused.value.faults[0].startswith("http.certificate_file")


def _locked(key: str) -> str:
    from cryptography.hazmat.primitives import serialization

    loaded: Any = serialization.load_pem_private_key(key.encode(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    return str(loaded.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, secret).decode())

"""The certificate of the metrics API: an authority of its own, and what that issues, kept together in one Secret.

Both are renewed when a third of their time is left, so that an operator that was off for weeks still serves. A renewed
authority is trusted beside the one before it until that ends: replicas take a new certificate one after the other.
"""

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS, _SERVING_DAYS = 3650, 90
_EARLY = dt.timedelta(minutes=10)  # clocks differ
_NAMES = ("ca.crt", "ca.key", "tls.crt", "tls.key")


@dataclass(frozen=True)
class ServingCertificate:
    """PEM texts. `ca` may hold several authorities, the one that issues first."""

    ca: str
    ca_key: str
    certificate: str
    key: str

    def __repr__(self) -> str:
        return "ServingCertificate()"

    def data(self) -> dict[str, str]:
        """Return a Secret's data."""
        texts = (self.ca, self.ca_key, self.certificate, self.key)
        return {name: base64.b64encode(text.encode()).decode() for name, text in zip(_NAMES, texts, strict=True)}


def read_certificate(secret: Mapping[str, Any] | None) -> ServingCertificate | None:
    """Read a Secret; None: it holds nothing that can be used."""
    data = (secret or {}).get("data") or {}
    try:
        found = ServingCertificate(*(base64.b64decode(data[name], validate=True).decode() for name in _NAMES))
        authority, serving = _authorities(found)[0], x509.load_pem_x509_certificate(found.certificate.encode())
        serving.verify_directly_issued_by(authority)
        if _public(_key(found.ca_key)) != authority.public_key() or _public(_key(found.key)) != serving.public_key():
            return None
    except (KeyError, ValueError, TypeError, IndexError, InvalidSignature):
        return None
    return found


def renewed(found: ServingCertificate | None, hosts: Sequence[str], now: dt.datetime) -> ServingCertificate | None:
    """Return what to serve from now on instead of `found`; None: that is still good."""
    if found is None:
        return _issue(*_new_authority(now), [], hosts, now)
    authority, *older = _authorities(found)
    if _due(authority, now):
        kept = [one for one in (authority, *older) if one.not_valid_after_utc > now]
        return _issue(*_new_authority(now), kept, hosts, now)
    serving = x509.load_pem_x509_certificate(found.certificate.encode())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if _due(serving, now) or set(names.get_values_for_type(x509.DNSName)) != set(hosts):
        return _issue(
            authority, _key(found.ca_key), [one for one in older if one.not_valid_after_utc > now], hosts, now
        )
    return None


def expiration(found: ServingCertificate) -> dt.datetime:
    """Return when a certificate ends, or the authority that issued it if that ends before."""
    serving = x509.load_pem_x509_certificate(found.certificate.encode())
    return min(serving.not_valid_after_utc, _authorities(found)[0].not_valid_after_utc)


def _due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    begun, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now < begun or now >= ends - (ends - begun) / 3


def _authorities(found: ServingCertificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(found.ca.encode())


def _new_authority(now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"podpair metrics API {now:%Y-%m-%d}")])
    uses = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(uses, critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return made.sign(key, hashes.SHA256()), key


def _issue(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    older: Sequence[x509.Certificate],
    hosts: Sequence[str],
    now: dt.datetime,
) -> ServingCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    # The common name is cut to what X.509 allows; clients look at the alternative names.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    made = (
        _builder(name, authority.subject, key.public_key(), now, _SERVING_DAYS)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return ServingCertificate(
        "".join(_pem(one) for one in (authority, *older)), _written(authority_key), _pem(made), _written(key)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _written(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _key(text: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key on a curve")
    return key


def _public(key: ec.EllipticCurvePrivateKey) -> ec.EllipticCurvePublicKey:
    return key.public_key()

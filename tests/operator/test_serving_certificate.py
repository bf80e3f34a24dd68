"""The metrics API's certificate by itself: made, kept, renewed in time, never out of trust."""

import datetime as dt

import pytest
from cryptography import x509

from podpair.operator.metrics_api.certificates import ServingCertificate, read_certificate, renewed

HOSTS = ["metrics.podpair.svc", "metrics.podpair.svc.cluster.local"]
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def after(days: float) -> dt.datetime:
    return START + dt.timedelta(days=days)


def made() -> ServingCertificate:
    first = renewed(None, HOSTS, START)
    assert first is not None
    return first


def stored(certificate: ServingCertificate) -> dict[str, dict[str, str]]:
    return {"data": certificate.data()}


def authorities(certificate: ServingCertificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.ca.encode())


def test_what_was_made_is_read_again_and_kept() -> None:
    first = made()
    assert read_certificate(stored(first)) == first
    assert renewed(first, HOSTS, after(0)) is None
    assert renewed(first, HOSTS, after(59)) is None
    assert first.key not in repr(first)


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left_by_the_same_authority() -> None:
    first = made()
    second = renewed(first, HOSTS, after(61))
    assert second is not None
    assert (second.ca, second.certificate != first.certificate) == (first.ca, True)
    assert read_certificate(stored(second)) == second
    assert renewed(second, HOSTS, after(61)) is None


def test_other_names_need_another_certificate() -> None:
    other = renewed(made(), ["other.podpair.svc"], START)
    assert other is not None
    assert renewed(other, ["other.podpair.svc"], START) is None


def test_a_new_authority_is_trusted_beside_the_one_before_until_that_ends() -> None:
    first = made()
    second = renewed(first, HOSTS, after(2500))
    assert second is not None
    assert authorities(second)[1] == authorities(first)[0]
    third = renewed(second, HOSTS, after(3700))
    assert third is not None
    assert authorities(third) == authorities(second)[:1]


@pytest.mark.parametrize("broken", ["absent", "empty", "no base64", "no PEM", "another key", "another authority"])
def test_a_secret_that_can_t_be_used_is_as_good_as_none(broken: str) -> None:
    first, second = made(), made()
    data = first.data()
    secrets = {
        "absent": None,
        "empty": {"data": None},
        "no base64": {"data": data | {"tls.crt": "%"}},
        "no PEM": {"data": data | {"ca.crt": "Zm9v"}},
        "another key": {"data": data | {"tls.key": second.data()["tls.key"]}},
        "another authority": {"data": data | {"ca.crt": second.data()["ca.crt"]}},
    }
    assert read_certificate(secrets[broken]) is None

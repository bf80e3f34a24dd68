"""What is taken out of texts that people are shown."""

import pytest

from podpair.common.redaction import is_secret, redact

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@model:8081/v2", "http://**********@model:8081/v2"),
        ("https://hunter2@issuer/jwks", "https://**********@issuer/jwks"),
        ("grpcs://a:hunter2@b@model:1", "grpcs://**********@model:1"),
        ("https://issuer/jwks?kid=1&api_key=hunter2&x=2", "https://issuer/jwks?kid=1&api_key=**********&x=2"),
        ("https://c/v1/traces?X-Auth=hunter2#a", "https://c/v1/traces?X-Auth=**********#a"),
        ("'http://u:hunter2@m' and 'http://u:hunter2@n?token=hunter2'", "'http://**********@m' and 'http://**********@n?token=**********'"),
        ('{"message": "http://u:hunter2@m: gone", "at": "me@home"}', '{"message": "http://**********@m: gone", "at": "me@home"}'),
    ],
)  # fmt: skip
def test_passwords_in_urls(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text", ["http://model:8081/a@b?version=1", "unix:/run/model.sock", "host:9092,host2:9092", "a@b", ""]
)
def test_all_else_stands(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config",
        "ssl.keystore.password", "sasl.jaas.config", "sasl.oauthbearer.assertion.private.key.passphrase", "my.credential",
    ],
)  # fmt: skip
def test_properties_that_are_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "sasl.username",
        "ssl.key.location",
        "sasl.oauthbearer.token.endpoint.url",
        "linger.ms",
        "sasl.oauthbearer.method",
    ],
)
def test_properties_that_are_not(name: str) -> None:
    assert not is_secret(name)

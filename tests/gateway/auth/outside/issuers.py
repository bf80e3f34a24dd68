"""What issuers publish and sign, made by libraries that they use: joserfc, jwcrypto, authlib, an OpenID provider of authlib.

issuers.py keys         prints a JSON list of {"library", "algorithm", "public", "token", "bare"}: a key as it is published, a
                        token with its kid, and one without
issuers.py provider     runs an OpenID provider, logs someone in, prints {"jwks_url", "issuer", "client", "subject", "token"},
                        and goes on until its standard input ends
"""

import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

KINDS: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", 2048)),
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "ES256K": ("EC", "secp256k1"),
    "EdDSA": ("OKP", "Ed25519"), "Ed448": ("OKP", "Ed448"),
}  # fmt: skip


def claims() -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 3600}


def by_joserfc(name: str, kty: str, shape: Any) -> dict[str, Any]:
    from joserfc import jwt
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    key = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}[kty].generate_key(shape, {"kid": name, "use": "sig"})
    algorithm = "EdDSA" if kty == "OKP" else name
    sign = [jwt.encode(header, claims(), key, algorithms=[algorithm]) for header in headers(algorithm, name)]
    return {"public": key.as_dict(private=False), "token": sign[0], "bare": sign[1]}


def by_jwcrypto(name: str, kty: str, shape: Any) -> dict[str, Any]:
    from jwcrypto import jwk, jwt

    algorithm = "EdDSA" if kty == "OKP" else name
    size = {"size": shape} if kty == "RSA" else {"crv": shape}
    key = jwk.JWK.generate(kty=kty, kid=name, alg=algorithm, key_ops=["sign", "verify"], **size)
    sign = []
    for header in headers(algorithm, name):
        token = jwt.JWT(header=header, claims=claims(), algs=[algorithm])
        token.make_signed_token(key)
        sign.append(token.serialize())
    return {"public": key.export_public(as_dict=True), "token": sign[0], "bare": sign[1]}


def by_authlib(name: str, kty: str, shape: Any) -> dict[str, Any]:
    from authlib.jose import JsonWebKey, JsonWebToken

    algorithm = "EdDSA" if kty == "OKP" else name
    key = JsonWebKey.generate_key(kty, shape, is_private=True)
    public = key.as_dict(is_private=False)  # its kid is the key's thumbprint
    sign = [JsonWebToken([algorithm]).encode(h, claims(), key).decode() for h in headers(algorithm, public["kid"])]
    return {"public": public, "token": sign[0], "bare": sign[1]}


def headers(algorithm: str, kid: str) -> list[dict[str, Any]]:
    return [{"alg": algorithm, "kid": kid}, {"alg": algorithm}]


def keys() -> None:
    made = []
    for library in (by_joserfc, by_jwcrypto, by_authlib):
        for name, (kty, shape) in KINDS.items():
            if name == "Ed448" and library is by_authlib:
                continue  # it signs with Ed25519 alone
            found = {"library": library.__name__.removeprefix("by_"), "algorithm": name, **library(name, kty, shape)}
            made.append(found)
    print(json.dumps(made))  # noqa: T201


def provider() -> None:
    import oidc_provider_mock

    with oidc_provider_mock.run_server_in_thread() as server:
        url = f"http://localhost:{server.server_port}"
        found = asked(f"{url}/.well-known/openid-configuration")
        back, client = "http://localhost/back", "page"
        query = urllib.parse.urlencode(
            {"client_id": client, "redirect_uri": back, "response_type": "code", "scope": "openid", "nonce": "n"}
        )
        opener = urllib.request.build_opener(NoRedirect)
        answer = opener.open(f"{found['authorization_endpoint']}?{query}", b"sub=ann", timeout=10)
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(answer.headers["Location"]).query)["code"][0]
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": back, "client_id": client, "client_secret": "s",
        }  # fmt: skip
        tokens = asked(found["token_endpoint"], urllib.parse.urlencode(form).encode())
        told = {"jwks_url": found["jwks_uri"], "issuer": found["issuer"], "client": client, "subject": "ann"}
        print(json.dumps(told | {"token": tokens["id_token"]}), flush=True)  # noqa: T201
        sys.stdin.read()


class NoRedirect(urllib.request.HTTPErrorProcessor):
    """Takes an answer of 302 as it is."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response


def asked(url: str, form: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, form, timeout=10) as answer:
        return json.load(answer)


if __name__ == "__main__":
    {"keys": keys, "provider": provider}[sys.argv[1]]()

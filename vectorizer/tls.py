"""TLS: one context for each door, made at the start from the files of the settings.

REST speaks TLS 1.2 or newer and asks clients for no certificate: they have keys. Replication speaks TLS 1.3.
With a CA both ends of a link show a certificate that it has signed, and the replica compares the master's
with the host that it connects to; without one the link is encrypted, and it is the replication secret, bound
to the master's certificate, that tells a master from somebody in between.

``ssl`` is the standard library's; the process has patched it with gevent's before this is imported.
"""

from __future__ import annotations

import hashlib
import ssl

from vectorizer.errors import ConfigurationError
from vectorizer.sections import Security

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def rest_context(security: Security) -> ssl.SSLContext | None:
    """For the REST interface; None = it is not encrypted. ConfigurationError if the files cannot be used."""
    if not security.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_own(context, security)
    return context


def master_context(security: Security) -> ssl.SSLContext | None:
    """For replicas that come; None = links are not encrypted, or this node has no certificate to show."""
    if not security.replication_tls or not security.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_own(context, security)
    if security.tls_ca:
        _load_ca(context, security)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def replica_context(security: Security) -> ssl.SSLContext | None:
    """For connecting to a master; None = links are not encrypted."""
    if not security.replication_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if security.tls_certificate:
        _load_own(context, security)
    if security.tls_ca:
        _load_ca(context, security)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def own_fingerprint(security: Security) -> bytes:
    """What peers know this node's certificate by. ConfigurationError if it is not written as usual."""
    with open(security.tls_certificate, encoding="ascii", errors="replace") as file:
        text = file.read()
    try:
        first = text[text.index(_BEGIN) : text.index(_END) + len(_END)]
        return fingerprint(ssl.PEM_cert_to_DER_cert(first))
    except ValueError:  # OpenSSL takes "BEGIN X509 CERTIFICATE" and "BEGIN TRUSTED CERTIFICATE", too
        raise ConfigurationError(
            f"certificate {security.tls_certificate} cannot be used: it has no line {_BEGIN}",
            key="security.tls_certificate",
            accepted="a certificate as PEM",
        ) from None


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).digest()


def _load_own(context: ssl.SSLContext, security: Security) -> None:
    try:
        context.load_cert_chain(security.tls_certificate, security.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"certificate {security.tls_certificate} and key {security.tls_key} cannot be used: "
            f"{error.strerror if isinstance(error, OSError) and error.strerror else error}",
            key="security.tls_certificate",
            accepted="a certificate and the key that belongs to it, without a password, as PEM",
        ) from None


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    raise ValueError("the key has a password")


def _load_ca(context: ssl.SSLContext, security: Security) -> None:
    try:
        context.load_verify_locations(security.tls_ca)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the CA {security.tls_ca} cannot be used: {error}",
            key="security.tls_ca",
            accepted="certificates of CAs as PEM",
        ) from None

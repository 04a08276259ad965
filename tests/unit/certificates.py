"""Certificates made by openssl, good for a day."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """As a server is told."""
        return {"security.tls_certificate": str(self.certificate), "security.tls_key": str(self.key)}


def make(folder: Path, name: str, ca: Certificate | None = None, names: str = NAMES) -> Certificate:
    """A certificate signed by ``ca``, or by itself, which makes it one."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "1", "-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(made.certificate)]
    if ca is not None:
        words += ["-CA", str(ca.certificate), "-CAkey", str(ca.key), "-addext", names]
        words += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)
    return made

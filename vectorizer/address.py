"""Addresses as an operator writes them: ``host:port``; a host is a name, an IPv4 or bracketed IPv6 address.

Only the form is checked here. Names are resolved anew at each connection, by those who connect.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST_CHARACTERS_MAX = 253


class Address(NamedTuple):
    """A host (IPv6 without brackets) and a port; ``str()`` gives what :func:`parse_address` reads."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return host and port of ``host:port``; a ValueError says what is wrong with ``text``."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("it has no port")
    if not host:
        raise ValueError("it has no host (0.0.0.0 means every IPv4 interface)")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:7001")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("its port is not a number from 0 to 65535")
    return Address(parse_host(host), int(port))


def peer_address(name: tuple[Any, ...]) -> Address:
    """Return where a connection comes from, of what `accept` says.

    IPv4 stays IPv4: a listener on `[::]` sees it as ``::ffff:10.0.0.2``, which no certificate names.
    """
    host, port = name[:2]
    return Address(host.removeprefix("::ffff:") if "." in host else host, port)


def is_every_interface(host: str) -> bool:
    """Whether ``host`` means every interface of a machine, and so names none of them to another one."""
    return host in ("0.0.0.0", "::")


def seen_from_elsewhere(told: str, host: str) -> str:
    """Return the address that a node told of itself, as a peer who reaches that node at ``host`` can use it.

    ``told`` may be ``""``, and is returned as it is if it is no address.
    """
    try:
        address = parse_address(told)
    except ValueError:
        return told
    return str(Address(host, address.port)) if host and is_every_interface(address.host) else told


def parse_host(text: str) -> str:
    """Return a host name or IP address without brackets; a ValueError says what is wrong with ``text``."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare or bare is not text:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError("its host is not an IPv6 address") from None
        return bare
    if re.fullmatch(r"[0-9.]+", bare):
        try:
            ipaddress.IPv4Address(bare)
        except ValueError:
            raise ValueError("its host is not an IPv4 address") from None
        return bare
    labels = bare.removesuffix(".").split(".")
    if len(bare) > _HOST_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its host is neither a host name nor an IP address")
    return bare

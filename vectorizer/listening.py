"""Where a node listens, as it tells its peers, and what is said when it cannot listen there."""

from __future__ import annotations

import errno

from vectorizer.address import Address, is_every_interface, parse_address
from vectorizer.config import Settings
from vectorizer.errors import ConfigurationError, RequestError, conflict, validation


def unusable(address: str, settings: Settings, error: OSError) -> ConfigurationError:
    """The error of a start that cannot listen for replicas there."""
    return ConfigurationError(
        f"cannot listen for replicas on {address}: {error.strerror}",
        key="replication.bind_address",
        source=settings.where("replication.bind_address"),
        accepted="an address of this machine that is not in use",
    )


def refused_bind(address: str, error: OSError) -> RequestError:
    """The error of a live change that cannot listen for replicas there."""
    if error.errno == errno.EADDRINUSE:
        return conflict(f"{address} is in use; nothing was changed", "address_in_use", address=address)
    return validation(
        f"cannot listen on {address}: {error.strerror or error}; nothing was changed", address=address
    )


def listening_address(settings: Settings, port: int) -> Address:
    """Where peers reach the listener for replicas at ``port``, with the name by which an operator knows it.

    Certificates name hosts, and numbers change: a name that was said anywhere is better than the address
    behind it. Without one, a listener on every interface has no host, and peers take the one they see.
    """
    replication = settings.replication
    if replication.advertise_address:
        return parse_address(replication.advertise_address)
    host = parse_address(replication.bind_address).host
    if is_every_interface(host):
        rest = settings.server.advertise_address
        host = parse_address(rest).host if rest else ""
    return Address(host, port)


def advertised_address(settings: Settings, port: int) -> str:
    """Host and port told to peers: as set, else where the REST interface listens."""
    if settings.server.advertise_address:
        return str(parse_address(settings.server.advertise_address))
    host = settings.server.host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

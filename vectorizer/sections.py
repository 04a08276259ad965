"""The table of all settings.

It makes the parser, the validation, conf/config.yml and docs/CONFIGURATION.md: what is not here does not
exist. A help text says what a value brings about, not what its name says already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from vectorizer.setting import Setting, setting, settings_of

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Server:
    """The process and its REST interface."""

    host: str = setting(
        "127.0.0.1",
        "Where the REST interface listens. 127.0.0.1 serves this machine only, 0.0.0.0 or [::] every "
        "network.",
        kind="host",
        flag="--host",
    )
    port: int = setting(
        15002,
        "Port of the REST interface. 0 = chosen by the system, and logged.",
        minimum=0,
        maximum=65535,
        flag="--port",
    )
    advertise_address: str = setting(
        "",
        "REST address (host:port) that this node tells its peers: replicas name it to clients who "
        "want to write. Empty = host and port from above; for 0.0.0.0 or [::] peers put the host at "
        "which they see this node. 127.0.0.1 is of no use to other machines.",
        kind="peer",
    )
    connections_max: int = setting(
        1000, "REST connections at one time; more wait until one is closed.", minimum=1, maximum=100_000
    )
    request_timeout_secs: float = setting(
        60.0,
        "A request that is not read and answered by then is ended, so that a silent client holds no "
        "connection.",
        minimum=0.1,
        maximum=86_400,
    )
    shutdown_timeout_secs: float = setting(
        10.0,
        "On SIGTERM, how long running requests may still take and replicas may fetch the rest before "
        "the process ends.",
        minimum=0,
        maximum=3600,
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """Files: where they are, when they are on disk for certain, and how large they grow."""

    data_dir: str = setting(
        "./data",
        "Directory of all data, made if it is missing; relative to the working directory. One process "
        "at a time.",
        kind="path",
        flag="--data-dir",
    )
    fsync: Literal["always", "everysec", "never"] = setting(
        "always",
        "always: an acknowledged write survives power loss. everysec: up to about a second of writes "
        "may be lost with the machine. never: the operating system decides. A crash of the process "
        "alone loses nothing in any mode that had been handed to the system.",
        choices=("always", "everysec", "never"),
    )
    journal_file_bytes: int = setting(
        64 * MIB,
        "Size of one journal file. Files are allocated ahead, so that a full disk is noticed before a write.",
        minimum=4 * KIB,
        maximum=16 * GIB,
    )
    journal_bytes_max: int = setting(
        GIB,
        "Journal on disk at most. It feeds replicas that were away for longer than the log in memory "
        "reaches: less means full syncs sooner.",
        minimum=8 * KIB,
        maximum=1024 * GIB,
    )
    checkpoint_bytes: int = setting(
        256 * MIB,
        "A checkpoint is made after so many bytes of journal. Larger = longer recovery after a crash, "
        "fewer writes.",
        minimum=KIB,
        maximum=1024 * GIB,
    )
    checkpoint_interval_secs: float = setting(
        300.0,
        "A checkpoint is made at the latest after this time, if anything was written.",
        minimum=0.05,
        maximum=86_400,
    )
    diverged_bytes_max: int = setting(
        256 * MIB,
        "How much of the writes that only this node had is kept aside when it joins a master that "
        "never saw them. 0 keeps none.",
        minimum=0,
        maximum=1024 * GIB,
    )


@dataclass(frozen=True, slots=True)
class Index:
    """Segments and their graphs. A collection keeps the values it was created with, unless said otherwise."""

    recall: float = setting(
        0.95,
        "Share of the true nearest neighbours that a search must find, if the collection does not "
        "say. The effort of each search follows from it. 1 = always exact.",
        minimum=0.01,
        maximum=1.0,
    )
    segment_rows: int = setting(
        16_384,
        "Rows after which a segment is sealed and gets a graph; until then they are scanned.",
        minimum=16,
        maximum=10_000_000,
    )
    segment_rows_max: int = setting(
        262_144,
        "Merges stop at segments of this size. Larger = faster search in large collections, longer builds.",
        minimum=16,
        maximum=100_000_000,
    )
    hnsw_m: int = setting(
        16, "Neighbours of a row in a graph. More = better recall, more memory.", minimum=2, maximum=128
    )
    ef_construction: int = setting(
        200, "Effort of building a graph. More = better graphs, longer builds.", minimum=8, maximum=10_000
    )
    graph_rows_min: int = setting(
        4096,
        "Segments with fewer rows get no graph: scanning them is as fast. Of this node, for all collections.",
        minimum=512,
        maximum=100_000_000,
    )
    merge_dead_fraction: float = setting(
        0.2,
        "A segment in which more than this share of the rows is deleted or replaced is rewritten. Of the "
        "master, for all collections.",
        minimum=0.01,
        maximum=1.0,
    )
    merge_idle_secs: float = setting(
        60.0,
        "After so long without a write to a collection, its smaller segments become one: a search asks fewer "
        "graphs. Of the master, for all collections.",
        minimum=0.1,
        maximum=86_400.0,
    )
    build_wait_secs_max: float = setting(
        30.0,
        "While writes come in at more than 1 MB/s, and for 2 s after, a graph is not begun, for so long at "
        "the most: until then the processor is theirs. 0 = it never waits. Of this node, for all "
        "collections.",
        minimum=0.0,
        maximum=86_400.0,
    )
    builder_niceness: int = setting(
        10,
        "Niceness of the process that builds graphs; 0 competes with the server. Of this node, for "
        "all collections.",
        minimum=0,
        maximum=19,
    )
    builder_threads: int = setting(
        1,
        "Threads of the process that builds graphs. Of this node, for all collections.",
        minimum=1,
        maximum=256,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for. What exceeds a limit is refused with both numbers."""

    json_body_bytes_max: int = setting(8 * MIB, "Largest JSON request body.", minimum=KIB, maximum=GIB)
    bson_body_bytes_max: int = setting(64 * MIB, "Largest BSON request body.", minimum=KIB, maximum=GIB)
    frame_bytes_max: int = setting(
        128 * MIB,
        "Largest frame on a replication link and in the journal: the largest single write. Peers "
        "exchange it, and the smaller one counts, so it should be the same on all nodes.",
        minimum=64 * KIB,
        maximum=GIB,
    )
    batch_rows_max: int = setting(10_000, "Vectors in one write.", minimum=1, maximum=1_000_000)
    dimension_max: int = setting(16_384, "Largest dimension of a new collection.", minimum=1, maximum=65_536)
    id_bytes_max: int = setting(256, "Longest id of a vector, in bytes of UTF-8.", minimum=1, maximum=256)
    payload_bytes_max: int = setting(
        MIB, "Largest payload of one vector, as BSON.", minimum=16, maximum=256 * MIB
    )
    json_depth_max: int = setting(32, "Deepest nesting of a request body.", minimum=4, maximum=128)
    search_limit_max: int = setting(10_000, "Results of one search.", minimum=1, maximum=1_000_000)
    searches_max: int = setting(1000, "Searches in one batch.", minimum=1, maximum=100_000)
    page_limit_max: int = setting(10_000, "Vectors in one page of a listing.", minimum=1, maximum=1_000_000)
    collections_max: int = setting(1000, "Collections of this node.", minimum=1, maximum=100_000)
    filter_conditions_max: int = setting(256, "Conditions in one filter.", minimum=1, maximum=10_000)


@dataclass(frozen=True, slots=True)
class Replication:
    """This node's role and its links. All of it can be changed live by POST /replication/configure."""

    enabled: bool = setting(
        False,
        "A role other than standalone enables replication. An explicit false, in this file or in the "
        "environment, keeps the node standalone whatever role stands beside it; only a role given by "
        "REST overrides it.",
    )
    role: str = setting(
        "standalone",
        "standalone: no replication. master: takes writes and sends them to its replicas; needs "
        "bind_address. replica: read-only, follows master_address.",
        choices=("standalone", "master", "replica"),
    )
    bind_address: str = setting(
        "",
        "Where replicas connect, as host:port. A master needs it; a replica that has it can feed "
        "replicas of its own. What protects it is in the section security.",
        kind="address",
    )
    advertise_address: str = setting(
        "",
        "Where other nodes reach bind_address (host:port), if they see it elsewhere: behind NAT, or under "
        "a name. It is where a switchover points everybody. Empty = bind_address; if that is on every "
        "interface, the host of server.advertise_address, else the one that the master sees.",
        kind="peer",
    )
    master_address: str = setting(
        "",
        "The bind_address of the master, as host:port. A host name is looked up anew at each connection.",
        kind="peer",
    )
    heartbeat_interval_secs: float = setting(
        5.0, "A silent link carries a heartbeat this often, both ways.", minimum=0.01, maximum=3600
    )
    replica_timeout_secs: float = setting(
        30.0,
        "A link on which nothing was heard for this long is dropped. Should be several heartbeats.",
        minimum=0.05,
        maximum=86_400,
    )
    reconnect_interval_secs: float = setting(
        5.0,
        "Longest wait of a replica between two attempts to connect. The first attempt is immediate, "
        "then it waits longer and longer up to this.",
        minimum=0.01,
        maximum=3600,
    )
    log_size: int = setting(
        1_000_000,
        "Newest operations from which a replica that was away can catch up without a full sync. More "
        "need more journal (storage.journal_bytes_max), not more memory.",
        minimum=1,
        maximum=1_000_000_000,
    )
    log_bytes_max: int = setting(
        64 * MIB,
        "Of these, how many bytes are held in memory, once for all replicas. Older ones are read from "
        "the journal.",
        minimum=4 * KIB,
        maximum=64 * GIB,
    )
    connect_timeout_secs: float = setting(
        5.0, "How long a replica waits for the master to accept its connection.", minimum=0.05, maximum=600
    )
    handshake_timeout_secs: float = setting(
        10.0, "How long either side waits for the other's part of the handshake.", minimum=0.05, maximum=600
    )
    replica_forget_secs: float = setting(
        3600.0,
        "How long a replica that is gone stays in GET /replication/replicas.",
        minimum=0.1,
        maximum=31_536_000,
    )
    replicas_max: int = setting(64, "Replicas that may be connected at one time.", minimum=1, maximum=10_000)
    wait_replicas: int = setting(
        0,
        "Replicas that must hold a write durably before it is answered, where the write does not say "
        "wait=. The answer comes after wait_timeout_ms all the same, and says how many have it.",
        minimum=0,
        maximum=10_000,
    )
    wait_timeout_ms: int = setting(
        1000,
        "How long a write with wait= (or wait_replicas), or a read with min_offset=, waits where it does "
        "not say timeout_ms=.",
        minimum=0,
        maximum=3_600_000,
    )
    min_replicas_to_write: int = setting(
        0,
        "Writes are refused with 503 while fewer replicas than this are connected and well. 0 = a master "
        "takes writes on its own.",
        minimum=0,
        maximum=10_000,
    )
    min_replicas_max_lag_secs: float = setting(
        10.0,
        "A replica that is further behind, or was not heard for longer, does not count for "
        "min_replicas_to_write. Should be more than heartbeat_interval_secs.",
        minimum=0.05,
        maximum=86_400,
    )
    replica_writes: Literal["refuse", "redirect"] = setting(
        "refuse",
        "What a replica does with a write. refuse: 403 that names the master. redirect: 307 to the "
        "master's REST address.",
        choices=("refuse", "redirect"),
    )
    snapshot_chunk_bytes: int = setting(
        MIB, "A full sync is sent in pieces of this size.", minimum=4 * KIB, maximum=32 * MIB
    )
    snapshot_pin_secs: float = setting(
        3600.0,
        "How long a full sync may keep files from being deleted before it is given up and tried again.",
        minimum=1,
        maximum=604_800,
    )


@dataclass(frozen=True, slots=True)
class Security:
    """Who may reach this node. See docs/SECURITY.md."""

    require_auth: bool = setting(
        False,
        "true: every request needs an API key, and this node listens beyond its own machine only if it has "
        "keys (REST) and a secret (replication). false: keys count as soon as there are any.",
    )
    keys_file: str = setting(
        "",
        "API keys, as `vectorizer keys` writes them. Empty = the file keys in storage.data_dir.",
        kind="file",
    )
    replication_secret: str = setting(
        "",
        "What the nodes of a cluster share, to prove to each other that they belong to it. It is never "
        "sent. A file is better: it is not seen in the environment, and may change while the server runs.",
        kind="secret",
    )
    replication_secret_file: str = setting(
        "",
        "A file that holds that secret, looked at again at each new link; blanks around it do not count.",
        kind="file",
    )
    tls_certificate: str = setting(
        "",
        "Certificate of this node (PEM, with what leads to its CA). With it REST speaks HTTPS only.",
        kind="file",
    )
    tls_key: str = setting("", "The private key that belongs to it, without a password.", kind="file")
    replication_tls: bool = setting(
        False,
        "Replication speaks TLS 1.3 only, both where this node listens (which needs the certificate) and "
        "where it connects. The same on all nodes.",
    )
    tls_ca: str = setting(
        "",
        "With replication_tls: both ends of a link must show a certificate signed by one of these CAs "
        "(PEM), and a master's must name the host that its replica connects to.",
        kind="file",
    )


@dataclass(frozen=True, slots=True)
class Logging:
    """One line an event, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "The least severe events that are logged. info shows roles, links, syncs and refusals.",
        choices=("debug", "info", "warning", "error"),
        flag="--log-level",
    )
    format: Literal["text", "json"] = setting(
        "text", "text: time, level, event, key=value. json: an object a line.", choices=("text", "json")
    )


SECTIONS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "server": Server,
        "storage": Storage,
        "index": Index,
        "limits": Limits,
        "replication": Replication,
        "security": Security,
        "logging": Logging,
    }
)
TABLE: tuple[Setting, ...] = tuple(
    row for name, table in SECTIONS.items() for row in settings_of(name, table)
)
BY_NAME: Mapping[str, Setting] = MappingProxyType(
    {f"{row.section}.{spelling}": row for row in TABLE for spelling in row.spellings}
)
BY_ENVIRONMENT: Mapping[str, Setting] = MappingProxyType(
    {variable: row for row in TABLE for variable in row.environment}
)

"""Roles of a running node: which of listener and link is at work, and how that changes live.

A change of role is a procedure of several steps that may be cut after each:

- to master: bind the listener (an address in use ends it here, nothing has changed), end the link, make
  all data durable, store the role, open the new mastership while writes are still held, make it durable, let
  writes in, listen.
- to replica: stop writes, store the role and the master's address, end the listener, start the link. With an
  address of its own a replica listens, too, for replicas of its own; an address that was named now is bound
  before all else.

A crash before the role is stored finds the old role, and nothing was acknowledged under the new one. A crash
after it finds a master that was a replica, whose start opens the new mastership.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from gevent.lock import RLock

from vectorizer import logs
from vectorizer.address import Address, parse_address
from vectorizer.config import Settings, Source
from vectorizer.database import Database, node_limits
from vectorizer.errors import ConfigurationError, RequestError, conflict, insufficient_storage, validation
from vectorizer.listening import listening_address, refused_bind, unusable
from vectorizer.maintenance import Maintenance
from vectorizer.node import Role
from vectorizer.replication import messages
from vectorizer.replication.enquiry import history_at
from vectorizer.replication.handshake import Above
from vectorizer.replication.history import History
from vectorizer.replication.link import NOWHERE
from vectorizer.replication.master import MasterServer, bind
from vectorizer.replication.replica import ReplicaClient
from vectorizer.security import Security
from vectorizer.snapshots import Snapshots
from vectorizer.switchover import Switchover

log = logs.get(__name__)


class Roles:
    """Owner of the listener for replicas and of the link to a master."""

    def __init__(
        self,
        database: Database,
        maintenance: Maintenance,
        snapshots: Snapshots,
        rest_address: str,
        security: Security | None = None,
    ) -> None:
        self._security = security
        self._database = database
        self._maintenance = maintenance
        self._snapshots = snapshots
        self.lock = RLock()
        """Held while the role changes."""
        self.rest_address = rest_address
        """Host and port at which clients reach this node, as told to peers."""
        self.switchover = Switchover(database, self)
        database.roles = self
        self.master: MasterServer | None = None
        self.replica: ReplicaClient | None = None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._database.settings

    def start(self) -> None:
        """Take up the role that the settings say. ConfigurationError if the address is in use.

        The mastership of this start is durable already. RequestError 507 if the role cannot be noted on disk.
        """
        replication = self.settings.replication
        self._guard_listening(self.settings)
        self._note(replication.role == Role.REPLICA)
        if replication.role == Role.MASTER:
            try:
                self._listen(bind(replication.bind_address))
            except OSError as error:
                raise unusable(replication.bind_address, self.settings, error) from error
        elif replication.role == Role.REPLICA:
            self._listen_as_replica(replication.bind_address)
            self._follow(force=False)

    def stop(self, drain_secs: float) -> None:
        """Let replicas fetch the rest, then say goodbye."""
        self.switchover.stop()
        with self.lock:
            if self.replica is not None:
                self.replica.stop()
            if self.master is not None:
                self.master.drain(drain_secs)
                self.master.stop()

    # -- live changes ----------------------------------------------------------------------------

    def configure(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /replication/configure``: change settings and role. RequestError or ConfigurationError."""
        values = dict(document)
        force = values.pop("force", False)
        if not isinstance(force, bool):
            raise validation("force is true or false")
        if not values:
            raise validation("nothing to configure: the body names no setting; see docs/CONFIGURATION.md")
        with self.lock:
            settings = self._replaced(values)
            with self.switchover.role_changes(takes_back=force and values.get("role") == Role.MASTER):
                self._change(settings, force, named="role" in values)
            role = self._database.node.role
            log.info(
                "configured", role=role.value, settings=settings.stored(), **self._database.node.describe()
            )
            for warning in settings.warnings:
                log.warning("configuration_doubtful", message=warning)
            return {
                "success": True,
                "role": role.value.capitalize(),
                "message": "Replication configured successfully. The change is in force; "
                "no restart is required.",
                "restart_required": False,
            }

    def _replaced(self, values: Mapping[str, Any]) -> Settings:
        """The settings with these said by REST. ConfigurationError, or 409 if they would have no effect."""
        settings = self.settings.replaced(values, source=Source.REST, section="replication")
        self._refuse_ineffective(settings, values)
        return settings

    def _refuse_ineffective(self, settings: Settings, values: Mapping[str, Any]) -> None:
        """A flag is stronger than REST: say so instead of storing what has no effect."""
        for name, said in settings.said.get(Source.REST, {}).items():
            key = name.rpartition(".")[2]
            if key in values and settings.value(name) != said.value:
                raise conflict(
                    f"{name} is {settings.value(name)!r} by {settings.where(name)}, which is stronger "
                    "than REST; remove it there first"
                )

    def _change(self, settings: Settings, force: bool, *, named: bool = True) -> None:
        """``named``: somebody said the role, it is not only what it was."""
        node = self._database.node
        old, new = node.role, Role(settings.replication.role)
        if self._snapshots.installing:
            raise conflict(
                "this node is just installing the data of a full sync; try again in a moment", "installing"
            )
        if node.deposed is not None and named and new is not Role.REPLICA and not force:
            raise conflict(
                f"this master was deposed by mastership {node.deposed.replication_id}, epoch "
                f"{node.deposed.epoch}; with force it becomes the newest master all the same",
                "deposed",
            )
        self._guard_listening(settings)
        if new is Role.MASTER:
            self._become_master(settings, old, force)
        elif new is Role.REPLICA:
            self._become_replica(settings, old, force)
        else:
            self._become_standalone(settings, old, force)
        node.set_limits(node_limits(self.settings))

    def _become_master(self, settings: Settings, old: Role, force: bool) -> None:
        address = settings.replication.bind_address
        if self.master is not None and address == self.settings.replication.bind_address:
            self._take_mastership(settings, old, Role.MASTER, force)
            return
        with self._listener_named(address) as listener:
            self._take_mastership(settings, old, Role.MASTER, force)
        assert listener is not None, "a master has an address"
        if self.master is not None:
            self.master.stop()
        self._listen(listener)

    def _bind_beside(self, address: str) -> socket.socket:
        """A listener for another address. Ours is closed first if it holds that port on another interface."""
        try:
            return bind(address)
        except OSError as error:
            if self.master is None or error.errno != errno.EADDRINUSE or not self._is_own_port(address):
                raise refused_bind(address, error) from error
        self.master.stop()
        try:
            return bind(address)
        except OSError as error:
            self._listen_again()
            raise refused_bind(address, error) from error

    def _is_own_port(self, address: str) -> bool:
        assert self.master is not None
        return parse_address(address).port == parse_address(self.master.address).port

    def _listen_again(self) -> None:
        """Back to where this master listened before."""
        assert self.master is not None
        self._listen(bind(self.master.address))

    def _become_standalone(self, settings: Settings, old: Role, force: bool) -> None:
        self._take_mastership(settings, old, Role.STANDALONE, force)
        self._stop_listening()

    def _take_mastership(self, settings: Settings, old: Role, new: Role, force: bool) -> None:
        """Become writable, under a new mastership if this was a replica."""
        node = self._database.node
        if old is not Role.REPLICA:
            taken_back = force and not node.writable
            if taken_back:
                node.guard_promotion()
            self._store(settings)
            node.role = new
            if taken_back:
                self._take_mastership_back()
            return
        if not node.has_complete_data and not force:
            raise conflict(
                f"this node has no complete data yet and cannot become {new}; with force it starts empty",
                "not_ready",
            )
        client, self.replica = self.replica, None
        if client is not None and not client.handing_over:
            client.stop()
        node.has_complete_data = True
        self._database.serves_data = lambda: True
        previous = self.settings
        with self._database.writes_held("a promotion is under way"):
            try:
                node.guard_promotion()
                self._database.flush()
                self._store(settings)
                node.promote(new)
                self._database.committed()
                self._database.flush()
                self._database.history_changed()
            except BaseException:
                node.role = old
                if self.settings is not previous:
                    with suppress(RequestError):  # the start as master that is left then is a promotion
                        self._store(previous)
                self._follow(force=False)
                raise
        log.info("promoted", role=new.value, **node.describe())
        try:
            self._note(follows=False)
        except RequestError as error:  # the next start raises the epoch once more, which does no harm
            log.warning("role_not_noted", reason=str(error))

    def _take_mastership_back(self) -> None:
        """An operator's word: this master is the newest again, whoever deposed it."""
        node = self._database.node
        node.open_mastership(raise_epoch=True)
        self._database.committed()
        self._database.flush()
        self._database.history_changed()
        self._database.release_writes()
        log.warning("mastership_taken_back", **node.describe())

    def _become_replica(
        self, settings: Settings, old: Role, force: bool, master_url: str | None = None
    ) -> None:
        node = self._database.node
        same_master = settings.replication.master_address == self.settings.replication.master_address
        address = settings.replication.bind_address
        same_address = address == self.settings.replication.bind_address
        with self._listener_named(None if same_address else address) as listener:
            if old is Role.REPLICA:
                self._store(settings)
            else:
                with self._database.writes_held("this node is about to become a replica"):
                    self._database.flush()
                    self._note(follows=True)
                    self._store(settings)
                    node.role, node.master_url, node.deposed = Role.REPLICA, master_url, None
                    self._give_up_mastership()
        if old is Role.REPLICA and same_master and same_address and not force and self._tells_where():
            return
        if self.replica is not None:
            self.replica.stop()
            self.replica = None
        if old is not Role.REPLICA or not same_address:
            self._listen_anew(listener, address)
        self._follow(force, master_url)

    @contextmanager
    def _listener_named(self, address: str | None) -> Iterator[socket.socket | None]:
        """Bound at an address that was named now; closed, and all is as before, if the body fails."""
        if not address:
            yield None
            return
        listener = self._bind_beside(address)
        try:
            yield listener
        except BaseException:
            listener.close()
            if self.master is not None and not self.master.listening:
                self._listen_again()
            raise

    def _listen_anew(self, listener: socket.socket | None, address: str) -> None:
        """As a replica, let others in: by this listener, else where this node does already, else there."""
        if listener is None and address and self.master is not None:
            address = self.master.address
        self._stop_listening()
        if listener is not None:
            self._listen(listener)
        else:
            self._listen_as_replica(address)

    def _tells_where(self) -> bool:
        """Whether the link goes on: its master knows what the settings say. One that gave up tries anew."""
        client = self.replica
        if client is None or client.link.listens_at != self._listens_at():
            return False
        if client.stopped_for_good:
            client.reset()
        return True

    # -- what a master's switchover does here ------------------------------------------------------------

    def settings_following(self, master_address: str) -> Settings:
        """The settings with which this node follows. RequestError 409 if it cannot."""
        try:
            return self._replaced({"role": "replica", "master_address": master_address})
        except ConfigurationError as error:
            raise conflict(f"this node cannot follow {master_address}: {error}") from error

    def store_role(self, settings: Settings, *, follows: bool) -> None:
        """Make durable in which role this node starts next. RequestError 507."""
        self._note(follows)
        self._store(settings)

    def history_at(self, address: str) -> History | None:
        """The history of the node that listens there; None if it would not take this one. PeerError."""
        return history_at(self._database, address, self.rest_address, self._security)

    def follow_successor(self, settings: Settings, master_url: str | None) -> None:
        """The mastership was handed over: follow it. RequestError 507."""
        with self.lock:
            self._become_replica(settings, Role.MASTER, force=False, master_url=master_url)
            self._database.node.set_limits(node_limits(self.settings))

    # -- what a replica's master orders ------------------------------------------------------------------

    def take_over(self, client: ReplicaClient, switchover: str, offset: int) -> None:
        """The master hands its mastership to this node, whose link ends with the answer."""
        node = self._database.node
        with self.lock:
            try:
                if self.replica is client:
                    self._guard_take_over(offset)
                    self._change(self._replaced({"role": "master"}), force=False)
            except (RequestError, ConfigurationError) as error:
                reason = error.error_type if isinstance(error, RequestError) else "not_configurable"
                log.warning("switchover_declined", switchover=switchover, reason=str(error))
                client.settle(messages.Declined(switchover, reason, str(error)[: messages.SENTENCE_MAX]))
            else:
                if node.role is Role.MASTER:
                    client.settle(messages.Promoted(switchover, node.history))
            client.stop()
            if self.replica is client:
                self._follow(force=False)

    def _guard_take_over(self, offset: int) -> None:
        node = self._database.node
        if self.master is None:
            raise conflict("this replica does not listen for replicas of its own", "not_listening")
        if node.offset != offset:
            raise conflict(f"this replica is at offset {node.offset}, not at {offset}", "behind")

    def follow_another(self, client: ReplicaClient, master_address: str) -> None:
        """The master says that the mastership has moved."""
        with self.lock:
            if self.replica is not client:
                return
            try:
                self.configure({"role": "replica", "master_address": master_address})
            except (RequestError, ConfigurationError) as error:
                log.warning("not_repointed", master_address=master_address, reason=str(error))

    # -- small steps -------------------------------------------------------------------------------------

    def _give_up_mastership(self) -> None:
        try:
            self._database.node.give_up_mastership()
        except RequestError as error:  # no room: who is followed may think that it was deposed
            log.warning("mastership_not_given_up", reason=str(error))
        self._database.committed()

    def _store(self, settings: Settings) -> None:
        with _stored_or_refused():
            self._maintenance.store_settings(settings.stored())
        self._database.settings = settings

    def _note(self, follows: bool) -> None:
        with _stored_or_refused():
            self._database.run_work(self._database.directory.set_follows, follows)

    def _guard_listening(self, settings: Settings) -> None:
        """ConfigurationError if replicas must not be let in at the address of these settings."""
        replication = settings.replication
        if self._security is None or replication.role == Role.STANDALONE or not replication.bind_address:
            return
        if self.master is None or replication.bind_address != self.settings.replication.bind_address:
            self._security.guard_replication(replication.bind_address)

    def _listen(self, listener: socket.socket) -> None:
        self.master = MasterServer(
            self._database, self._snapshots, listener, self.rest_address, self._above, self._security
        )
        self.master.start()
        log.info("replication_listening", address=self.master.address)

    def _listen_as_replica(self, address: str) -> None:
        """A replica that has an address feeds replicas of its own; one that cannot have it only follows."""
        if not address:
            return
        try:
            listener = bind(address)
        except OSError as error:
            log.warning("replica_cannot_listen", address=address, reason=error.strerror or str(error))
            return
        self._listen(listener)

    def _stop_listening(self) -> None:
        if self.master is not None:
            self.master.stop()
            self.master = None

    def _listens_at(self) -> Address:
        """Where peers reach this node's listener, as it tells its master."""
        if self.master is None:
            return NOWHERE
        return listening_address(self.settings, parse_address(self.master.address).port)

    def _above(self) -> Above:
        return Above() if self.replica is None else self.replica.above

    def _follow(self, force: bool, master_url: str | None = None) -> None:
        self.replica = ReplicaClient(
            self._database,
            self._snapshots,
            self.settings.replication.master_address,
            self.rest_address,
            force=force,
            listens_at=self._listens_at(),
            orders=self,
            security=self._security,
        )
        link = self.replica.link
        self._database.node.master_url = master_url
        self.replica.start()
        self._database.serves_data = lambda: link.serves_data


@contextmanager
def _stored_or_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise insufficient_storage(f"the change cannot be stored: {error}; nothing was changed") from error

"""How safe a write, how fresh a read: parameters of all routes, and the wait on its own."""

from __future__ import annotations

from dataclasses import replace

from vectorizer.database import Database
from vectorizer.errors import RequestError
from vectorizer.guarantees import Guarantees
from vectorizer.replication.messages import OFFSET_MAX
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.schema import Field, Integer, Table
from vectorizer.rest.shapes import BOOLEAN, COUNT, record

TIMEOUT_MS_MAX = 3_600_000
REPLICAS_MAX = 10_000

WAIT = Table(
    "Wait",
    {
        "offset": Field(
            Integer(0, OFFSET_MAX), "the write to wait for; left out, the newest one", default=-1
        ),
        "replicas": Field(Integer(0, REPLICAS_MAX), "so many replicas must hold it durably", required=True),
        "timeout_ms": Field(Integer(0, TIMEOUT_MS_MAX), "how long to wait", default=-1),
    },
)

WAITED = record({"offset": COUNT, "replicas_durable": COUNT, "replicas": COUNT, "reached": BOOLEAN})


class GuaranteeRoutes:
    """``/replication/wait``, and what the application does before reads and after writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guarantees = Guarantees(database)

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        text = "Wait until replicas hold a write durably."
        return [Route("GET", "/replication/wait", self.wait, text, query=WAIT, answers={200: WAITED})]

    def wait(self, request: Request) -> Answer:
        """200, also when fewer were reached in time; 400 where there are no replicas to wait for."""
        database = self._database
        if database.roles is None or database.roles.master is None:
            raise RequestError(
                400, "not_a_master", f"only a master waits for replicas; this node is a {database.role}"
            )
        values = request.parameters
        offset = database.node.offset if values["offset"] < 0 else values["offset"]
        count = values["replicas"]
        reached = self._guarantees.durable_replicas(offset, count, self._timeout_ms(values["timeout_ms"]))
        return Answer(
            {"offset": offset, "replicas_durable": reached, "replicas": count, "reached": reached >= count}
        )

    def before_write(self) -> None:
        """RequestError 503 if too few replicas are well."""
        self._guarantees.guard_replicas()

    def after_write(self, request: Request, answer: Answer) -> Answer:
        """The same answer, later, with the number of replicas that hold the write, if that was asked."""
        count = request.parameters["wait"]
        if count < 0:
            count = self._database.settings.replication.wait_replicas
        if count == 0:
            return answer
        timeout_ms = self._timeout_ms(request.parameters["timeout_ms"])
        offset, mastership = int(answer.document["offset"]), answer.document["replication_id"]
        reached = self._guarantees.durable_replicas(offset, count, timeout_ms, mastership)
        return replace(answer, document={**answer.document, "replicas_durable": reached})

    def before_read(self, request: Request) -> None:
        """RequestError 412 or 503 if this node's data is not as fresh as asked."""
        values = request.parameters
        if values["max_lag_ms"] >= 0:
            self._guarantees.guard_lag(values["max_lag_ms"])
        if values["min_offset"] > 0 or values["replication_id"] is not None:
            self._guarantees.await_offset(
                values["min_offset"], values["replication_id"], self._timeout_ms(values["timeout_ms"])
            )

    def _timeout_ms(self, asked: int) -> int:
        return self._database.settings.replication.wait_timeout_ms if asked < 0 else asked

"""Requests made from the description of the REST interface, good and bad ones, against a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.node import clean_environment

SEED = 7
EXAMPLES = 10
SECONDS = 90
"""A quiet machine needs 15."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
# Dropping drops another collection, so that the one the others use stays. Waits are short. 412 refuses, too.
CONFIGURATION = """
[parameters]
"path.name" = "things"
"query.timeout_ms" = 5
"query.wait" = 0

[[operations]]
include-name = "DELETE /collections/{name}"
parameters = { "path.name" = "others" }

[[operations]]
include-method = ["POST", "PUT"]
phases.coverage.enabled = false

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 507]

[checks.negative_data_rejection]
expected-statuses = ["4xx", 503]
"""


@pytest.mark.timeout(SECONDS + 30)
def test_requests_made_from_the_description(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.start_master()
    node.post("/collections", {"name": "things", "dimension": 1, "metric": "euclidean"})
    rows = [{"id": f"v{number}", "vector": [number], "payload": {"n": number}} for number in range(20)]
    node.post("/collections/things/vectors", {"vectors": rows})
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
    words = [
        *("run", f"http://127.0.0.1:{node.port}/openapi.json", "--no-color", "--warnings", "off"),
        *("--phases", "coverage,fuzzing", "--seed", str(SEED), "--max-examples", str(EXAMPLES)),
        *("--checks", ",".join(CHECKS), "--continue-on-failure"),
        # What changes the role is held to the document by tests of its own.
        *("--exclude-path-regex", "^/replication/(configure|promote|follow|switchover)"),
    ]
    command = "from schemathesis.cli import schemathesis; schemathesis()"
    run = subprocess.run(
        [sys.executable, "-c", command, *words],
        cwd=tmp_path,
        env={**clean_environment(), "SCHEMATHESIS_HOOKS": "tests.cluster.bson_for_schemathesis"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert node.running
    assert "request_failed" not in node.log_file.read_text(encoding="utf-8")

"""conf/docker, as far as no engine is needed: its files agree with each other and with the package."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from tests.cluster.harness.node import ROOT

DOCKER = ROOT / "conf" / "docker"


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "docker-compose.yml").read_text())
    return document


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of each logical line of the Dockerfile."""
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_compose_file_is_that_of_the_requirements() -> None:
    services = compose()["services"]
    assert sorted(services) == ["vectorizer-master", "vectorizer-replica-1", "vectorizer-replica-2"]
    master = services["vectorizer-master"]
    assert master["image"] == "vectorizer:latest"
    assert master["ports"] == ["15002:15002", "7001:7001"]
    assert master["environment"] == ["REPLICATION_ROLE=master", "REPLICATION_BIND_ADDRESS=0.0.0.0:7001"]
    assert master["volumes"] == ["master-data:/app/data"]
    for number, port in ((1, 15003), (2, 15004)):
        replica = services[f"vectorizer-replica-{number}"]
        assert replica["image"] == "vectorizer:latest"
        assert replica["ports"] == [f"{port}:15002"]
        address = "REPLICATION_MASTER_ADDRESS=vectorizer-master:7001"
        assert replica["environment"] == ["REPLICATION_ROLE=replica", address]
        assert replica["volumes"] == [f"replica{number}-data:/app/data"]
    assert sorted(compose()["volumes"]) == ["master-data", "replica1-data", "replica2-data"]


def test_the_image_is_built_from_this_repository() -> None:
    build = compose()["services"]["vectorizer-master"]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for instruction, rest in instructions():
        if instruction == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source in allowed, f"{source} is kept out by .dockerignore"


def test_the_image_runs_as_nobody_special_listens_everywhere_and_says_how_it_is() -> None:
    told = instructions()
    words = dict(told)
    assert words["USER"] == "vectorizer"
    assert "VECTORIZER_HOST=0.0.0.0" in words["ENV"]
    assert "VECTORIZER_DATA_DIR=/app/data" in words["ENV"]
    assert words["VOLUME"] == "/app/data"
    assert "/health" in words["HEALTHCHECK"]
    assert words["ENTRYPOINT"] == '["vectorizer"]'
    assert PurePosixPath(words["WORKDIR"]) == PurePosixPath("/app")


def test_every_variable_that_docker_sets_is_one_the_server_knows() -> None:
    from vectorizer.sections import BY_ENVIRONMENT

    given = [line for _, line in instructions() if line.startswith("VECTORIZER_")]
    names = set(re.findall(r"\b(VECTORIZER_[A-Z_]+|REPLICATION_[A-Z_]+)=", " ".join(given)))
    for service in compose()["services"].values():
        names |= {line.partition("=")[0] for line in service["environment"]}
    assert names
    assert names <= set(BY_ENVIRONMENT)

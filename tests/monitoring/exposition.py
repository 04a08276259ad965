"""The text of /metrics, read by prometheus-client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.harness import Node

Key = tuple[str, frozenset[tuple[str, str]]]


class Scrape:
    """One answer of /metrics: samples by name and labels."""

    def __init__(self, node: Node) -> None:
        answer = node.request("GET", "/metrics")
        assert answer.status == 200
        self.text: str = answer.body
        self.kind = answer.headers["content-type"]
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self._samples: dict[Key, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        """The sample of that name without labels."""
        return self.labelled(name)

    def labelled(self, name: str, **labels: str) -> float:
        """The sample of that name with exactly these labels."""
        return self._samples[name, frozenset(labels.items())]

    @property
    def sample_names(self) -> set[str]:
        """Names as Prometheus stores them: with _total, _bucket, _sum and _count."""
        found = {name for name, _ in self._samples}
        for family in self.families.values():
            if family.type == "counter":  # may have no sample yet
                found.add(f"{family.name}_total")
            if family.type == "histogram":
                found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            found.add(family.name)
        return found

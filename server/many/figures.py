"""Prometheus texts of several processes as one, each sample with the label ``process``. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str], up: Mapping[str, bool]) -> None:
        self._texts, self._up = texts, up

    def collect(self) -> Iterator[Metric]:
        """One family of each name, with everybody's samples."""
        families: dict[str, Metric] = {}
        for process, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                one = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "process": process}
                    one.samples.append(sample._replace(labels=labels))
        yield from families.values()
        up = GaugeMetricFamily("mytalk_process_up", "Whether the process answers", labels=["process"])
        for process, answers in self._up.items():
            up.add_metric([process], float(answers))
        yield up


def merged(texts: Mapping[str, str], up: Mapping[str, bool]) -> bytes:
    """texts: by process, what each says at ``/metrics``. up: by process, whether it answers."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts, up))
    return generate_latest(registry)

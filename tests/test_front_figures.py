"""Figures of several processes in one text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from server.many.figures import merged
from server.metrics import Metrics


def test_every_sample_says_whose_it_is_and_families_stay_whole() -> None:
    texts = {}
    for process, count in (("0", 2), ("1", 5)):
        metrics = Metrics()
        metrics.sessions.set(count)
        metrics.refused.labels("404").inc(count)
        metrics.stage.labels("motion").observe(0.01)
        texts[process] = metrics.text().decode()
    text = merged(texts, {"0": True, "1": True, "2": False}).decode()
    assert text.count("# TYPE mytalk_sessions gauge") == 1
    assert 'mytalk_sessions{process="1"} 5.0' in text
    assert 'mytalk_requests_refused_total{process="0",status="404"} 2.0' in text
    assert 'mytalk_process_up{process="2"} 0.0' in text
    before = [s for f in text_string_to_metric_families(texts["0"]) for s in f.samples]
    after = [s for f in text_string_to_metric_families(text) for s in f.samples if s.labels["process"] == "0"]
    assert len(after) == len(before) + 1  # and mytalk_process_up

"""What Ray really exports of a search, and that the dashboard asks for it."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from analysis.rows import ResultRow
from tuning.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"
EXPECTED = {
    "ray_rank_search_best_eval_loss": {"": 4.5},
    "ray_rank_search_tokens_per_second": {"": 12.5},
    "ray_rank_search_slots_in_use": {"": 2.0},
    "ray_rank_search_trials": {"running": 2.0, "finished": 2.0},
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(free_port):
    """Metric name -> {status or "": value} on the metrics port of a Ray whose driver heard of three trials."""
    port = free_port()
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        metrics = Metrics("nightly")
        for name, speed in (("a", 7.0), ("b", None), ("c", 5.5), ("d", 100.0)):
            metrics.started(name, name, {})
            metrics.reported(name, {"tokens_per_second": speed})
        metrics.ended(ResultRow("b", "b", "baseline", "finished", final_eval_loss=4.5))
        metrics.ended(ResultRow("d", "d", "baseline", "finished", phase="confirm", final_eval_loss=4.0))
        yield _scraped(f"http://127.0.0.1:{port}/metrics")
    finally:
        ray.shutdown()


def _scraped(url):
    """Return what is exported once it is what is expected, or after a minute."""
    deadline, found = time.monotonic() + 60, {}
    while time.monotonic() < deadline and found != EXPECTED:
        found = {}
        try:
            lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
        except OSError:
            lines = []
        for line in lines:
            if match := re.match(r'(ray_rank_search_\w+)\{.*search="nightly"(?:,status="(\w+)")?.*\} (\S+)$', line):
                found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
        time.sleep(0.5)
    return found


def test_gauges_say_how_the_search_stands(exported):
    assert exported == EXPECTED


def test_the_dashboard_asks_for_what_is_exported_and_nothing_else(exported):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for t in panel["targets"] for name in re.findall(r"ray_\w+", t["expr"])}
    assert asked == exported.keys()

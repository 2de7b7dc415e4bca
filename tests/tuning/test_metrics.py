"""The gauges of a search, what Ray really exports of them, and that the dashboard asks for it."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import MappingProxyType

import pytest
import ray

from analysis.results.rows import ResultRow
from analysis.results.trial_config import TrialConfig
from tuning.callbacks import metrics
from tuning.callbacks.metrics import Metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
EXPECTED = {
    "ray_rank_search_best_eval_loss": {"": 4.5},
    "ray_rank_search_tokens_per_second": {"": 12.5},
    "ray_rank_search_slots_in_use": {"": 2.0},
    "ray_rank_search_trials": {"running": 2.0, "finished": 2.0},
}


def heard():
    """Tell a search's gauges of four trials."""
    metrics = Metrics("nightly")
    for name, speed in (("a", 7.0), ("b", None), ("c", 5.5), ("d", 100.0)):
        metrics.started(TrialConfig("baseline", name))
        metrics.reported(name, {"tokens_per_second": speed})
    metrics.ended(ResultRow("b", "b", "baseline", "finished", final_eval_loss=4.5))
    metrics.ended(ResultRow("d", "d", "baseline", "finished", phase="confirm", final_eval_loss=4.0))


@pytest.fixture
def set_to(monkeypatch):
    """Metric name -> {status or "": value} of gauges that nobody exports."""
    gauges = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            self.values, self.tag_keys = gauges.setdefault(f"ray_{name}", {}), set(tag_keys)

        def set_default_tags(self, tags):
            assert tags == {"search": "nightly"}
            self.defaults = set(tags)

        def set(self, value, tags=MappingProxyType({})):
            assert {*tags} | self.defaults == self.tag_keys
            self.values[tags.get("status", "")] = value

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    return gauges


def test_gauges_say_how_the_search_stands(set_to):
    heard()
    assert set_to == EXPECTED


def test_the_dashboard_asks_for_what_is_exported_and_nothing_else():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for t in panel["targets"] for name in re.findall(r"ray_\w+", t["expr"])}
    assert asked == EXPECTED.keys()


def export(port):
    """Print what is on the metrics port of a Ray whose driver heard of these trials."""
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        heard()
        print(json.dumps(scraped(f"http://127.0.0.1:{port}/metrics")))
    finally:
        ray.shutdown()


def scraped(url):
    """Return what is exported once it is what is expected, or after a minute."""
    deadline, values = time.monotonic() + 60, {}
    while time.monotonic() < deadline and values != EXPECTED:
        values = {}
        try:
            lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
        except OSError:
            lines = []
        for line in lines:
            if match := re.match(r'(ray_rank_search_\w+)\{.*search="nightly"(?:,status="(\w+)")?.*\} (\S+)$', line):
                values.setdefault(match[1], {})[match[2] or ""] = float(match[3])
        time.sleep(0.5)
    return values


@pytest.mark.process
@pytest.mark.thorough
def test_ray_exports_them(free_port):
    code = f"from tests.tuning import test_metrics; test_metrics.export({free_port()})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=110)
    assert json.loads(done.stdout) == EXPECTED

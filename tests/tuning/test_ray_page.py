"""Ray's own dashboard in a real browser while a search runs, and what its metrics ports export."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
GAUGES = {"ray_rank_search_slots_in_use", "ray_rank_search_trials", "ray_rank_search_tokens_per_second"}
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def dashboard(small, runs):
    """The address that a running search prints; its trials last longer than the tests."""
    command = [
        sys.executable, "tune.py", *small, "--objective", "loss,params", "--budget-rank", "8", "--num-samples", "2",
        "--strategies", "baseline", "--strategies", "linear_decay", "--epochs", "20000", "--reports", "100",
        "--runs-dir", str(runs), "--name", "watched",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    search = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        yield re.search(r"http://\S+", search.stdout.readline())[0]
    finally:
        search.send_signal(signal.SIGINT)
        search.communicate(timeout=PATIENCE_SECONDS)


SHOWN = "pattern => (document.body.innerText.match(new RegExp(pattern)) || [null])[0]"


def read(url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def exported(dashboard):
    """Return names of the search's gauges on all metrics ports that the dashboard knows."""
    try:
        ports = re.findall(r'"([^"\s]+:\d+)"', read(f"{dashboard}/api/prometheus/sd"))
        lines = [line for port in ports for line in read(f"http://{port}/metrics").splitlines()]
    except OSError:
        return set()
    return {line.partition("{")[0] for line in lines if 'search="watched"' in line}


def test_the_dashboard_names_the_trials_that_train_by_strategy_budget_and_learning_rate(browser, dashboard):
    page = browser.new_page(viewport={"width": 1800, "height": 1200})
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    page.goto(f"{dashboard}/#/cluster")
    page.get_by_role("textbox", name="Authentication Token").fill(TOKEN)
    page.get_by_role("button", name="Submit").click()
    for strategy in ("baseline", "linear_decay"):
        # found and read in one go: the trial may be over a moment later
        shown = page.wait_for_function(SHOWN, arg=rf"ray::{strategy}_budget1_lr0\.01_\w+").json_value()
        assert shown.startswith(f"ray::{strategy}_budget1_lr0.01_t")
    page.close()


def test_the_metrics_port_exports_how_the_search_stands(dashboard, wait_for):
    names = set()

    def whole():
        names.clear()
        names.update(exported(dashboard))
        return names >= GAUGES

    wait_for(whole, PATIENCE_SECONDS)
    assert names == GAUGES

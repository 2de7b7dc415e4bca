"""MLflow's own pages in a real browser, over what a search left: useful at once, without a column to be chosen."""

import json
import re

import pytest
from mlflow import MlflowClient

from analysis.results.rows import read_rows
from tuning.tracking.mlflow_client import EXPERIMENT

pytestmark = pytest.mark.browser
TEST_LOSS, EVAL_LOSS = "metrics.`test_loss`", "metrics.`eval_loss`"
LINKS = ".ag-pinned-left-cols-container .ag-row"
PICTURE = "[...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth > 300)"
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def server(front, mlflow_server, free_port):
    port = free_port()
    mlflow_server(port, f"sqlite:///{front[1].parent}/mlflow.db")
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def ids(front):
    """Name of a run of the search -> its id in MLflow."""
    client = MlflowClient(tracking_uri=f"sqlite:///{front[1].parent}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    search = json.loads((front[1] / "facts.json").read_text())["search_id"]
    runs = client.search_runs([experiment], f"tags.`rank_search.trial_id` LIKE '{search}/%'")
    return {"experiment": experiment} | {run.info.run_name: run.info.run_id for run in runs}


@pytest.fixture(scope="module")
def trials(front):
    return [row for row in read_rows(front[1] / "rows.jsonl") if row.phase == "search"]


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1900, "height": 1100})
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


@pytest.fixture
def table(page, front, server):
    """The page at the address that the search printed."""
    (printed,) = re.findall(r"^\s+http://127.0.0.1:5000(/#/\S+)$", front[0].stdout, re.MULTILINE)
    page.goto(server + printed)
    page.locator(LINKS).first.wait_for()
    page.get_by_role("button", name="Close").first.click()  # MLflow's assistant
    return page


def column(page, name):
    """Return a column's texts in the order of the rows."""
    cells = page.evaluate(
        "name => [...document.querySelectorAll(`.ag-row [col-id='${name}']`)]"
        ".map(cell => [Number(cell.closest('.ag-row').getAttribute('row-index')), cell.textContent])",
        name,
    )
    return [text for _, text in sorted(cells)]


def numbers(texts):
    return [float(text.rstrip("….")) for text in texts if text != "-"]


def test_the_printed_address_shows_the_trials_of_the_search_by_evaluation_loss(table, trials):
    assert table.locator(LINKS).count() == len(trials)
    losses = numbers(column(table, EVAL_LOSS))
    assert losses == pytest.approx(sorted(row.final_eval_loss for row in trials), abs=1e-4)
    for name in ("metrics.`trainable_parameters`", "params.`learning_rate`", "params.`budget_share`"):
        assert len(numbers(column(table, name))) == len(trials)
    assert set(column(table, "tags.`strategy`")) == {"baseline", "linear_decay"}


def test_the_view_has_no_test_loss_and_no_column_that_is_empty_for_most_trials(table, trials):
    columns = table.evaluate(
        "[...document.querySelectorAll('.ag-header-cell')].map(cell => cell.getAttribute('col-id'))"
    )
    assert EVAL_LOSS in columns
    assert TEST_LOSS not in columns
    for name in columns:
        if name and name.startswith(("metrics.", "params.", "tags.")):
            assert sum(text not in {"-", ""} for text in column(table, name)) > len(trials) / 2, name


def test_the_comparison_of_selected_trials_draws_what_they_tried_and_their_loss(table):
    boxes = table.locator(f"{LINKS} .ag-selection-checkbox input")
    for number in range(boxes.count()):
        boxes.nth(number).click()
    table.get_by_role("button", name="Compare").click()
    table.locator(".parcoords .axis-title").first.wait_for()
    titles = table.locator(".parcoords .axis-title").all_text_contents()
    assert titles == ["budget_share", "learning_rate", "strategy", "eval_loss"]


def test_the_confirmation_runs_are_a_group_under_the_search(page, server, ids):
    page.goto(f"{server}/#/experiments/{ids['experiment']}/runs?workflowType=machine_learning")

    def open_row(name):
        row = page.locator(LINKS, has=page.get_by_text(name, exact=True))
        row.get_by_role("button").first.click()

    open_row("front")
    open_row("confirm")
    confirmed = next(name for name in ids if re.fullmatch(r"baseline_t\d+_seed1", name))
    shown = page.get_by_text(confirmed, exact=True)
    shown.wait_for()
    assert shown.count() == 1


def test_a_trials_ranks_are_shown_as_a_picture(page, server, ids, trials):
    page.goto(f"{server}/#/experiments/{ids['experiment']}/runs/{ids[trials[0].experiment_name]}/artifacts/ranks.png")
    page.wait_for_function(PICTURE)
    assert page.evaluate(PICTURE)


def test_the_report_opens_in_the_searchs_own_page_with_its_pictures(page, server, ids):
    page.goto(f"{server}/#/experiments/{ids['experiment']}/runs/{ids['front']}/artifacts/report.html")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Pareto Front").wait_for()
    assert report.locator(".figure svg").count() >= 4


def test_a_figure_of_the_search_is_shown(page, server, ids):
    page.goto(f"{server}/#/experiments/{ids['experiment']}/runs/{ids['front']}/artifacts/figures/pareto.svg")
    page.wait_for_function(PICTURE)
    assert page.evaluate(PICTURE)

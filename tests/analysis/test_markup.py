"""What comes from outside is text in a report, in Markdown and in the page, whatever is in it."""

import html
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analysis.report import compare, pictures
from analysis.report.card import Use, card
from analysis.report.page import render as page_of
from analysis.report.publish import publish, publish_comparison, publish_rows
from analysis.results import markup
from analysis.results.messages import one_line
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from tests.fakes.rows import assess

MARKUP = (
    "![a](/etc/hostname) <img src=x onerror=alert(1)> [b](javascript:alert(1)) `c` **d** |e| _f_ &amp; $g$ ~~h~~ "
    "<!-- i --> \\<j\n\n## Planted\n\n```\n</pre><script>alert(1)</script>\n---\n"
)
SIGNS = st.text(st.sampled_from("ab1 _*`[]()<>!|&\\#~$:/-=+;\"'\n") | st.characters(), max_size=30)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


def text_of(page):
    return html.unescape(re.sub("<[^>]*>", "", page))


@given(SIGNS)
def test_a_text_in_a_line_is_shown_as_it_is(text):
    line = one_line(text)
    assert text_of(MARKDOWN.render(f"x {markup.inline(text)} y")).split() == f"x {line} y".split()
    assert MARKDOWN.render(f"x {markup.inline(text)} y").count("<") == 2  # of the paragraph alone
    assert "".join(MARKDOWN.render(markup.inline(text)).split("\n")).count("<") in {0, 2}


@given(SIGNS)
def test_code_in_a_line_and_in_a_block_ends_where_it_should(text):
    shown = MARKDOWN.render(f"x {markup.code(text)} y")
    assert re.fullmatch(r"<p>x <code>[^<]*</code> y</p>\n", shown)
    block = MARKDOWN.render("\n".join(markup.fenced([text, "last"], "python")))
    assert re.fullmatch(r'<pre><code class="language-python">[^<]*last\n</code></pre>\n', block)


@given(st.lists(st.lists(SIGNS, min_size=2, max_size=2), min_size=1, max_size=3))
def test_a_table_has_the_cells_that_it_was_given(body):
    shown = MARKDOWN.render(markup.table(body, ("one", "two")))
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", shown)]
    assert [cell.split() for cell in cells] == [one_line(cell).split() for row in body for cell in row]


@given(SIGNS)
def test_what_was_made_a_line_of_markdown_is_got_back(text):
    assert markup.plain(markup.inline(text)) == one_line(text)
    assert markup.inline(markup.inline(text)) == markup.inline(text)


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its headings."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.attributes = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]


def planted_rows(field):
    """Rows with a verdict, a control, a diverged trial and restarts; markup stands in one of their fields."""
    rows = []
    for strategy in ("baseline", "empirical"):
        planted = strategy + MARKUP if field == "strategy" and strategy != "baseline" else strategy
        for number, phase in enumerate(("search", "search", "confirm", "confirm")):
            loss = 4.0 + number / 10 - (strategy == "empirical") / 4
            rows.append(
                ResultRow(
                    f"{strategy}{number}", f"{strategy}_{number}", planted, "finished", phase=phase, seed=number,
                    ranks={"h.0.attn": 2, "h.1.attn": 1}, alphas={"h.0.attn": 4.0, "h.1.attn": 2.0}, restarts=1,
                    trainable_parameters=100 * (number + 1), parameter_efficiency=0.1, final_eval_loss=loss,
                    test_loss=loss, learning_rate=0.01 * (number + 1), training_time_seconds=1.0,
                    history=({"step": 1, "eval_loss": loss},),
                )
            )  # fmt: skip
    of = rows[-1].strategy
    rows.append(replace(rows[-1], trial_id="c", strategy="shuffled", config={"shuffled": {"of": of}}, control_of=of))
    rows.append(ResultRow("x", "broken", "empirical", "diverged", error="loss nan"))
    if field in {"trial_id", "experiment_name", "error"}:
        rows = [replace(row, **{field: (getattr(row, field) or "") + MARKUP}) for row in rows]
    if field == "sites":
        sites = {f"h.0.{MARKUP}": 2, f"h.1.{MARKUP}": 3}
        rows = [replace(row, ranks=sites, alphas=dict.fromkeys(sites, 2.0)) for row in rows]
    return rows


INFO = RunInfo(
    "now", model="m", dataset="d", train_examples=5, command="tune.py", coverage="all; left out: 1", engine="packed",
    resource_events=["much"], versions={"ray": "1"}, importance={"baseline": {"rate": 1.0}}, seconds={"trials": 1.0},
    evidence={"a": {"s": 1.0, "t": 2.0}, "b": {"s": 1.0, "t": 2.0}}, continued=["c"], changes=["e"], revision="r",
    shrink=[{"fraction": 1.0, "params": 100, "test_loss": 4.0}, {"fraction": 0.5, "params": 50, "test_loss": 4.1}],
    model_revision="f", dataset_revision="g", corpus_sha256="h", base_sha256="i", looks=2, budget_params=400,
    search_id="j", data={"words": ["k"]}, handed_out={"best_adapter": "l"},
    samples=({"prompt": "m", "who": "n"},), samples_note="o",
)  # fmt: skip
TEXTS = ["samples"]
TEXTS += [item.name for item in fields(RunInfo) if isinstance(getattr(INFO, item.name), str | list | dict)
         and item.name not in {"shrink", "base_losses"}]  # fmt: skip


def planted(value):
    """Return a value with markup at the end of each of its texts, but for keys that can be no others."""
    if isinstance(value, dict):
        return {key if key in ("words", "best_adapter") else planted(key): planted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [planted(item) for item in value]
    return value + MARKUP if isinstance(value, str) else value


def checked(folder, expected):
    """Hold a page and its Markdown against those without markup in them."""
    report, page = ((folder / f"report.{suffix}").read_text() for suffix in ("md", "html"))
    body = page.partition("<main>")[2].partition("</main>")[0]
    tags = Tags(body)
    assert tags.seen <= expected.seen
    assert {name for _, name, _ in tags.attributes} <= {name for _, name, _ in expected.attributes}
    images = [value for tag, name, value in tags.attributes if (tag, name) == ("img", "src")]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in images)
    assert "## Planted" not in report.splitlines()
    # other readers of Markdown render HTML and links
    seen_elsewhere = Tags(MARKDOWN.render(report)).seen
    assert seen_elsewhere <= {*Tags(MARKDOWN.render(expected.report)).seen, "pre", "code"}
    return page


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The tags of a report without markup in its fields."""
    folder = tmp_path_factory.mktemp("sound")
    publish(assess(planted_rows("")), INFO, folder / "report.md")
    tags = Tags((folder / "report.html").read_text().partition("<main>")[2].partition("</main>")[0])
    tags.report = (folder / "report.md").read_text()
    return tags


@pytest.mark.parametrize("field", ["strategy", "trial_id", "experiment_name", "error", "sites", *TEXTS])
def test_markup_in_any_field_of_rows_plan_and_facts_stays_text(field, expected, tmp_path, monkeypatch):
    if field in TEXTS:  # pictures show rows alone
        monkeypatch.setattr(pictures, "drawn", lambda assessment, info: [])
    info = replace(INFO, **{field: planted(getattr(INFO, field))}) if field in TEXTS else INFO
    publish(assess(planted_rows(field)), info, tmp_path / "report.md")
    page = checked(tmp_path, expected)
    if field not in {"trial_id", "search_id", "evidence"}:  # which no report shows, or not with a slash in its name
        assert "alert(1)" in page.partition("<main>")[2]


@pytest.mark.parametrize("field", ["strategy", "experiment_name"])
def test_markup_stays_text_in_a_report_of_rows_alone(field, expected, tmp_path):
    publish_rows(assess(planted_rows(field)), RunInfo("now"), tmp_path / "report.md")
    checked(tmp_path, expected)


def test_markup_stays_text_in_a_comparison(expected, tmp_path):
    info = replace(INFO, model=MARKUP, dataset=MARKUP)
    search = compare.Search(MARKUP, info, assess(planted_rows("strategy")))
    publish_comparison([search, search], "now", tmp_path / "report.md")
    checked(tmp_path, expected)


@pytest.mark.parametrize("field", ["model", "dataset", "strategy", "base", "revision", "folder", "seen", "site"])
def test_markup_stays_text_in_a_model_card(field):
    values = {name: MARKUP if name == field else "plain" for name in ("base", "revision", "folder", "seen")}
    info = replace(RunInfo("now"), **({field: MARKUP} if field in {"model", "dataset"} else {}))
    strategy, site = (MARKUP if field == name else "h.0.attn" for name in ("strategy", "site"))
    best = ResultRow("a", "a", strategy, "finished", final_eval_loss=4.0, ranks={site: 2})
    shown = MARKDOWN.render(card(best, assess([best]), info, Use(uniform=False, **values)).partition("---\n\n")[2])
    assert "alert(1)" in html.unescape(shown)
    assert not re.search(r"<(img|script|a|em|del|hr)\b|<h2>Planted|<!--", shown)
    assert shown.count("<pre>") == 1


def test_a_page_opens_no_file_that_its_markdown_names(tmp_path):
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg>secret</svg>")
    figures = {"ranks": "<svg/>", "other": "<svg>secret</svg>"}
    for place in (secret, "../secret.svg", "figures/../secret.svg", "figures/other.svg", "figures/pareto.svg"):
        page = page_of(f"# A\n\n![words]({place})\n", figures)
        assert 'class="figure"' not in page
        assert "<p>words</p>" in page
    assert 'class="figure"' in page_of("# A\n\n![words](figures/ranks.svg)\n", figures)

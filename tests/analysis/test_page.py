"""The page in a real browser: nothing leaves it, tables sort, it fits a phone."""

import re
from dataclasses import replace

import pytest

from analysis.report import pictures
from analysis.report.publish import publish
from analysis.results.rows import ResultRow
from analysis.results.run_info import FIGURES, RunInfo
from tests.fakes.rows import assess

SITES = [f"transformer.h.{layer}.{matrix}" for layer in range(4) for matrix in ("attn.c_attn", "mlp.c_fc")]
SHRINK = [{"fraction": f, "params": int(1000 * f), "test_loss": 4.05 - 0.05 * f} for f in (1.0, 0.5, 0.25)]
BROWSER = pytest.mark.browser
LEARNED = re.compile("^learned tokens")
"""A column of all trials' cost; the bill of each strategy has others whose names end so."""
STRATEGIES = ("baseline", "linear_decay", "empirical")


def made(strategy, number, phase="search", status="finished"):
    loss = 4.0 + 0.1 * number + 0.01 * STRATEGIES.index(strategy)
    history = tuple({"step": step, "train_loss": 5.0, "eval_loss": loss + 1 / step, "seconds": 1.0} for step in (5, 10))
    return ResultRow(
        f"{phase}{strategy}{number}", f"{strategy}_<b>{number}", strategy, status, phase=phase, seed=number,
        config={"strategy": strategy, strategy: {"learning_rate": 0.01 / (number + 1)}},
        ranks={site: 2 + place % 3 for place, site in enumerate(SITES)}, alphas=dict.fromkeys(SITES, 4.0),
        trainable_parameters=1000 * (number + 1), parameter_efficiency=0.01, final_eval_loss=loss, test_loss=loss,
        final_perplexity=60.0, training_time_seconds=1.5, tokens=1000, history=history,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [made(strategy, number) for strategy in STRATEGIES for number in range(3)]
    rows += [made(strategy, number, "confirm") for strategy in STRATEGIES for number in (1, 2)]
    rows.append(made("empirical", 3, status="stopped"))
    info = RunInfo(
        "now", train_examples=8, epochs=3.0, command="tune.py --seed 1 '<script>'", versions={"ray": "1"},
        engine="packed",
        importance={"empirical": {"learning_rate": 0.9, "temperature": 0.1}},
        shrink=SHRINK, corpus_sha256="0123456789abcdef" * 4,
    )  # fmt: skip
    publish(assess(rows), info, folder / "report.md")
    return folder


@pytest.fixture
def page(browser, folder):
    page = browser.new_page()
    page.problems, page.requests = [], []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto((folder / "report.html").as_uri())
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    yield page
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    page.close()


@BROWSER
@pytest.mark.smoke
def test_the_page_has_every_section_of_the_report_and_its_pictures(page, folder):
    report = (folder / "report.md").read_text()
    assert page.locator("h2").all_text_contents() == re.findall(r"^## (.+)$", report, re.MULTILINE)
    assert page.locator("nav a").count() == page.locator("h2").count()
    assert page.locator(".figure").count() == 6
    for picture in page.locator(".figure").all():
        assert len(picture.get_attribute("aria-label")) > 40
        assert picture.locator("svg").bounding_box()["width"] > 100


@BROWSER
def test_a_name_with_markup_in_it_stays_text(page):
    assert page.locator("main b").count() == 0
    assert "<script>" in page.locator("pre", has_text="tune.py").inner_text()


@BROWSER
def test_a_table_sorts_by_number_both_ways_and_unknowns_come_last(page):
    table = page.locator("table", has=page.locator("th", has_text=LEARNED))
    head = table.locator("th", has_text=LEARNED)

    def column():
        texts = [text.replace(",", "") for text in table.locator("td:nth-child(7)").all_text_contents()]
        return texts[:-1]  # the last is their sum

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column(), key=int)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), key=int, reverse=True)


@BROWSER
def test_whichever_way_a_table_is_sorted_unknowns_and_totals_come_last(page):
    table = page.locator("table", has=page.locator("th", has_text="final_eval_loss"))
    head = table.locator("th", has_text="final_eval_loss")
    for reverse in (False, True):
        head.locator("button").click()
        texts = table.locator("td:nth-child(3)").all_text_contents()
        numbers = [float(text) for text in texts if text != "nan"]
        assert texts[len(numbers) :] == ["nan"] * (len(texts) - len(numbers)) != []
        assert numbers == sorted(numbers, reverse=reverse)
    table = page.locator("table", has=page.locator("th", has_text=LEARNED))
    for _ in range(2):
        table.locator("th", has_text=LEARNED).locator("button").click()
        assert table.locator("td:nth-child(1)").all_text_contents()[-1] == "all"


@BROWSER
def test_the_page_fits_a_phone_and_tables_scroll_by_themselves(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")


@pytest.fixture(scope="module")
def full_answer(tmp_path_factory):
    """The page of a search whose answer has all that one can: model, data, budget, base, sizes, worth and rivals."""
    folder = tmp_path_factory.mktemp("answer")
    rows = [made(strategy, number) for strategy in STRATEGIES for number in range(3)]
    losses = {"baseline": 4.0, "empirical": 3.99, "linear_decay": 4.02, "random": 4.01, "shuffled": 4.03}
    for seed, noise in ((1, 0.0), (2, 0.0003), (3, -0.0002)):
        for place, (name, loss) in enumerate(losses.items()):
            config = {"strategy": name, name: {"learning_rate": 0.01}}
            if name == "shuffled":
                config[name]["of"] = "empirical"
            rows.append(confirmed(name, seed, loss + seed / 10 + noise * place, config))
        for share, loss in ((0.5, 4.012), (2.0, 3.987)):
            config = {"strategy": "baseline", "baseline": {"learning_rate": 0.01, "budget_share": share}}
            rows.append(confirmed("baseline", seed, loss + seed / 10 - noise, config, f"-{share}", phase="sizes"))
    info = RunInfo(
        "now", train_examples=2000, margin="0.25doublings", model="HuggingFaceTB/SmolLM2-135M-Instruct",
        dataset="yahma/alpaca-cleaned", budget_params=2_442_240, base_losses={"test_loss": 4.9, "eval_loss": 4.9},
    )  # fmt: skip
    publish(assess(rows, info.margin), info, folder / "report.md")
    return folder


def confirmed(strategy, seed, loss, config, name="", **values):
    size = (config["strategy"] == "baseline" and config["baseline"].get("budget_share")) or 1
    params = {"phase": "confirm", "trainable_parameters": round(2_442_240 * size), **values}
    row = replace(made("baseline", 0), strategy=strategy, seed=seed, config=config, final_eval_loss=loss + 0.1)
    return replace(row, trial_id=f"{strategy}{name}_seed{seed}", test_loss=loss, history=(), **params)


@BROWSER
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_first_screen_has_all_that_an_answer_can_have(browser, full_answer, size):
    answer = (full_answer / "report.md").read_text().partition("## Answer")[2].partition("\n## ")[0]
    parts = (
        "**Model:**", "**Data:**", "**Budget:**", "What rank is worth here", "the base, untouched", "and is worth ",
        "It beats its scores dealt to other matrices (shuffled)", "was not tried against",
    )  # fmt: skip
    for part in parts:
        assert part in answer
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto((full_answer / "report.html").as_uri())
    box = page.locator("section.answer").bounding_box()
    assert box["y"] + box["height"] <= size[1]
    page.close()


@BROWSER
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_first_screen_has_the_whole_answer_and_nothing_of_it_is_cut_off(page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    box = page.locator("section.answer").bounding_box()
    assert box["y"] + box["height"] <= size[1]
    for part in ("table", ".figure svg", "pre"):
        inner = page.locator(f"section.answer {part}").bounding_box()
        assert inner["x"] + inner["width"] <= size[0]


@BROWSER
@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_at_no_width_is_a_table_or_a_block_wider_than_the_page_without_a_box_that_scrolls(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = """[...document.querySelectorAll('table, pre, svg')].filter(part => {
        const box = part.closest('.scroll, .figure, pre');
        return box.getBoundingClientRect().right > innerWidth || !'auto'.includes(getComputedStyle(box).overflowX);
    }).length"""
    assert page.evaluate(cut_off) == 0


@BROWSER
def test_what_follows_the_seeds_sections_is_folded_and_a_link_to_it_unfolds_it(browser, folder):
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    folded = page.locator("details h2").all_text_contents()
    assert folded[0] == "Winner"
    assert "Key Findings" not in folded
    assert not page.locator("details .figure").first.is_visible()
    page.locator("nav a", has_text="Learning Curves").click()
    assert page.locator("details[open] h2").all_text_contents() == ["Learning Curves"]
    page.close()


@BROWSER
def test_in_the_dark_text_and_drawings_are_light_on_dark_and_on_paper_they_are_not(page):
    colours = "['body', '.answer svg text'].map(name => getComputedStyle(document.querySelector(name)))"
    seen = f"(() => {{ const [body, text] = {colours}; return [body.color, body.backgroundColor, text.fill]; }})()"
    light = page.evaluate(seen)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(seen)
    assert light == ["rgb(27, 31, 36)", "rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert dark == ["rgb(228, 231, 235)", "rgb(21, 24, 28)", "rgb(228, 231, 235)"]
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(seen) == light


@BROWSER
def test_values_show_on_hover(page):
    titles = page.locator("svg title").all_text_contents()
    assert "linear_decay: +0.0100, +0.0100 to +0.0100, not found: the search was too short" in titles
    assert "baseline: layer 0, attn.c_attn, rank 2" in titles
    assert "baseline: 4.0000 at 0.01" in titles


@BROWSER
def test_the_page_prints_unfolded_with_no_table_cut_off(browser, folder):
    page = browser.new_page(viewport={"width": 680, "height": 960})
    page.goto((folder / "report.html").as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    parts = "...[...document.querySelectorAll('table, pre, svg')]"
    edge = "part => part.getBoundingClientRect().left + part.scrollWidth"
    assert page.evaluate(f"Math.max({parts}.map({edge}))") <= 680
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_the_page_has_every_section_of_the_report_and_its_pictures_in_it(folder):
    """As text; how a browser shows it is seen above."""
    report, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    assert re.findall(r"<h2[^>]*>(.+?)</h2>", page) == re.findall(r"^## (.+)$", report, re.MULTILINE)
    assert page.count('class="figure"') == report.count("](figures/") == 6
    assert "<script>" not in page.partition("<main")[2].partition("</main>")[0]


def test_the_page_is_small(folder):
    assert (folder / "report.html").stat().st_size < 300_000


@pytest.mark.search
def test_a_page_of_thirty_layers_seven_matrices_and_eight_strategies_is_under_a_megabyte(tmp_path):
    sites = [f"model.layers.{layer}.self_attn.{matrix}_proj" for layer in range(30) for matrix in "qkvogud"]
    rows = [
        replace(
            made("baseline", 0), trial_id=str(number), strategy=f"strategy_{number % 8}",
            ranks={site: (place * (number + 1)) % 30 for place, site in enumerate(sites)},
        )
        for number in range(140)
    ]  # fmt: skip
    publish(assess(rows), RunInfo("now"), tmp_path / "report.md")
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_the_same_rows_give_the_same_pictures(folder, tmp_path):
    rows = [made("baseline", 0), made("empirical", 0)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pictures.write(pictures.drawn(assess(rows), RunInfo("now")), tmp_path / name)
    for picture in (tmp_path / "a" / FIGURES).iterdir():
        assert picture.read_bytes() == (tmp_path / "b" / FIGURES / picture.name).read_bytes()


@BROWSER
def test_the_seeds_rows_make_a_page_with_its_statistics_as_a_table_that_keeps_its_shape(browser, command, tmp_path):
    seed = __file__.replace("test_page.py", "seed/rows.csv")
    assert command("--rows", seed, "--output", tmp_path / "r.md").returncode == 0
    page = browser.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    assert "final_eval_loss" in page.locator("pre").first.inner_text()
    page.close()

"""Pages for people: how long the README may be, and whether links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")]
PAGES += sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])


def test_the_readme_has_at_most_a_thousand_words():
    assert len((ROOT / "README.md").read_text().split()) <= 1000


def test_the_readme_says_that_no_licence_is_chosen_and_what_it_runs_on():
    text = (ROOT / "README.md").read_text()
    for words in ("No licence is chosen", "Python 3.11", "Linux", "macOS", "Windows"):
        assert words in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]

"""A report on disk: Markdown, its pictures, and an HTML page of both."""

from collections.abc import Sequence
from pathlib import Path

from analysis.report import compare, page, pictures, report
from analysis.results.atomic_write import replace_text
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import SearchAssessment


def publish(assessment: SearchAssessment, info: RunInfo, path: Path) -> None:
    """Write a report.

    Args:
        assessment: What the rows of the search say.
        info: What the report shows of the run and its rows do not have.
        path: The Markdown file; ``figures/`` and the page, of the same name with ``.html``, go beside it.
    """
    drawn_pictures = pictures.drawn(assessment, info)
    text = report.render(assessment, info, drawn_pictures)
    pictures.write(drawn_pictures, path.parent)
    _write(path, text)


def publish_comparison(searches: Sequence[compare.Search], generated: str, path: Path) -> None:
    """Write a report on several searches, as Markdown and as a page beside it."""
    text = compare.render(searches, generated)
    _write(path, text)


def _write(path: Path, text: str) -> None:
    replace_text(path, text)
    replace_text(path.with_suffix(".html"), page.render(text, path.parent))

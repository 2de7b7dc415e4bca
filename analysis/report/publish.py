"""A report on disk: Markdown, its pictures, and the page that has both."""

from collections.abc import Sequence
from pathlib import Path

from analysis.report import compare, page, pictures, report
from analysis.results.header import ReportHeader
from analysis.results.rows import ResultRow


def publish(rows: Sequence[ResultRow], header: ReportHeader, path: Path) -> None:
    """Write a report.

    Args:
        rows: All trials.
        header: What they do not know.
        path: The Markdown file; ``figures/`` and the page, of the same name with ``.html``, go beside it.
    """
    drawn = pictures.drawn(rows, header)
    text = report.render(rows, header, drawn)
    pictures.write(drawn, path.parent)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".html").write_text(page.render(text, path.parent), encoding="utf-8")


def publish_comparison(searches: Sequence[compare.Search], generated: str, path: Path) -> None:
    """Write a report on several searches, as Markdown and as a page beside it."""
    text = compare.render(searches, generated)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".html").write_text(page.render(text, path.parent), encoding="utf-8")

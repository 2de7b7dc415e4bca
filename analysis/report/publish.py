"""A report on disk: Markdown, its pictures, and an HTML page of both."""

from collections.abc import Sequence
from pathlib import Path

from analysis.report import compare, page, pictures, report, verdict_file
from analysis.results.atomic_write import replace_text
from analysis.results.run_info import FIGURES, RunInfo
from analysis.stats.assessment import SearchAssessment


def publish(assessment: SearchAssessment, info: RunInfo, path: Path) -> None:
    """Write the report of a run.

    Args:
        assessment: What the rows of the search say.
        info: What the report shows of the run and its rows do not have.
        path: The Markdown file; ``figures/``, ``verdict.json`` and the page, of the same name with ``.html``, go beside
            it.
    """
    drawn_pictures = pictures.drawn(assessment, info)
    _write(report.render(assessment, info, drawn_pictures), drawn_pictures, path, folded_after=report.LAST_OF_SEED)
    verdict_file.write(assessment, info, path.parent)


def publish_rows(assessment: SearchAssessment, info: RunInfo, path: Path) -> None:
    """Write a report of rows that are of no run; the arguments are those of ``publish``."""
    drawn_pictures = pictures.drawn(assessment, info)
    _write(report.render_rows(assessment, info, drawn_pictures), drawn_pictures, path, folded_after=None)


def report_beside(path: Path) -> Path | None:
    """Return another report with pictures in the folder of a report that is to be written; None if there is none."""
    others = sorted(other for other in path.parent.glob("*.md") if other.with_suffix(".html").is_file())
    return next((other for other in others if other.name != path.name and _has_pictures(other)), None)


def _has_pictures(path: Path) -> bool:
    return f"]({FIGURES}/" in path.read_text(encoding="utf-8", errors="replace")


def _write(text: str, drawn_pictures: Sequence[pictures.Picture], path: Path, folded_after: str | None) -> None:
    drawings = pictures.write(drawn_pictures, path.parent)
    replace_text(path, text)
    replace_text(path.with_suffix(".html"), page.render(text, drawings, folded_after))


def publish_comparison(searches: Sequence[compare.Search], generated: str, path: Path) -> None:
    """Write a report on several searches, as Markdown and as a page beside it."""
    text = compare.render(searches, generated)
    replace_text(path, text)
    replace_text(path.with_suffix(".html"), page.render(text, {}))

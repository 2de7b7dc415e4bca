"""The report as one HTML file that loads nothing else: works offline, on paper and on a phone; its tables sort."""

import itertools
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt
from markdown_it.token import Token

from analysis.report import drawing
from analysis.report.pictures import NAMES
from analysis.results.markup import fenced, plain
from analysis.results.run_info import FIGURES

NEVER_USED = ["link", "autolink", "reference", "entity"]
PLACE = re.compile(rf"{FIGURES}/({'|'.join(NAMES)})\.svg")
TEMPLATE = Path(__file__).with_name("page.html")
SECTION = re.compile(r"(?=<h2 )")
BARE_TABLE = re.compile(r"(### Performance Metrics by Strategy\n\n)(.+?)(\n\n)", re.DOTALL)


def render(report: str, pictures: Mapping[str, str], folded_after: str | None = None) -> str:
    """Return the HTML page of a report; no file is opened for it but its template.

    Args:
        report: Markdown, as ``report.render`` gives it.
        pictures: Name of a picture in the report -> its SVG, which becomes part of the page. Of a picture with another
            name the page has the words alone.
        folded_after: The heading of the last section that is shown unfolded; None if all are.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(NEVER_USED)
    # the seed's format prints this table bare, which Markdown reads as a paragraph
    tokens = markdown.parse(BARE_TABLE.sub(_as_code, report))
    headings = _number_headings(tokens)
    markdown.add_render_rule("image", lambda _, children, at, *__: _picture(children[at], pictures))
    body = markdown.renderer.render(tokens, markdown.options, {})
    body = body.replace("<table>", '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>')
    body = body.replace("</table>", "</table></div>").replace("<th>", '<th scope="col">')
    links = " ".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in headings)
    body = _in_sections(body, f'<nav aria-label="Sections">{links}</nav>\n', folded_after)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(_title(report)), body=body)


def _in_sections(body: str, nav: str, last: str | None) -> str:
    """Return the page's sections, each in an element, and the list of them after the answer, or first without one."""
    start, *sections = SECTION.split(body)
    titles = [re.sub("<[^>]*>", "", section.partition("</h2>")[0]) for section in sections]
    first_folded = titles.index(last) + 1 if last in titles else len(sections)
    parts = [
        f'<section class="{"answer" if title == "Answer" else "other"}">{section}</section>\n'
        for title, section in zip(titles, sections[:first_folded], strict=False)
    ]
    parts += [
        "<details><summary>{}{}</summary>\n{}</details>\n".format(*section.partition("</h2>"))
        for section in sections[first_folded:]
    ]
    parts.insert(1 if titles[:1] == ["Answer"] else 0, nav)
    return "".join([start, *parts])


def _number_headings(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Give every section's heading an anchor and return (anchor, text) of each."""
    anchors: list[tuple[str, str]] = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open" and opening.tag == "h2":
            anchor = f"section-{len(anchors) + 1}"
            opening.attrs["id"] = anchor
            anchors.append((anchor, inline.content))
    return anchors


def _as_code(match: re.Match[str]) -> str:
    return "\n".join([match[1].rstrip("\n"), "", *fenced(plain(match[2]).split("\n"), "wide")]) + match[3]


def _title(report: str) -> str:
    return report.partition("\n")[0].removeprefix("# ")


def _picture(token: Token, pictures: Mapping[str, str]) -> str:
    words = escape(plain(token.content))
    place = PLACE.fullmatch(str(token.attrs["src"]))
    if place is None or place[1] not in pictures:
        return words
    return f'<span class="figure" role="img" aria-label="{words}">{drawing.inline(pictures[place[1]])}</span>'

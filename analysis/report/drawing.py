"""What all drawings share: style, colours and files; a page shows their values on hover, in colours of its own."""

import io
import re
import warnings
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.results.messages import one_line

INK, QUIET, LINE, BAND, PAPER = "#1b1f24", "#777777", "#dddddd", "#eeeeee", "#ffffff"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
MARKERS = "osD^vPX"
NAMES = {INK: "ink", QUIET: "quiet", LINE: "line", BAND: "band", PAPER: "paper", COLOURS[0]: "blue"}
"""Colours that a page gives other values to when it is dark, with the names that they have there."""
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "font.size": 9, "legend.frameon": False, "svg.hashsalt": "figures",
    "text.parse_math": False, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip
LONGEST_LABEL, WIDE = 32, "mwMW@%"
TIP, UNUSED_ID = "tip-", re.compile(r'(<g) id="[a-zA-Z0-9_.]+_\d+"')


def series_style(number: int) -> tuple[str, str]:
    """Return (colour, marker) of the ``number``-th series; after seven, colours come again with other markers."""
    return COLOURS[number % 7], MARKERS[(number + number // 7) % 7]


def label(text: str) -> str:
    """Return a name as a line that leaves room for the drawing."""
    line = one_line(text)
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"


def inches(text: str) -> float:
    """Return about how wide a line is in a figure, rather too much: a figure is given room before it is drawn."""
    return sum(0.125 if sign in WIDE or not sign.isascii() else 0.08 for sign in text)


def tip(artist: Artist, text: str) -> None:
    """Have a text shown when a pointer is over a part of a drawing."""
    artist.set_gid(TIP + quote(one_line(text), safe=""))


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a picture; the same picture gives the same bytes.

    Args:
        figure: The picture.
        path: Its file.
        kind: Its format, such as ``png``.
    """
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=120, format=kind)


def svg(figure: Figure, name: str) -> str:
    """Return a picture as SVG, the same for the same picture; its name keeps its marks apart from those of others."""
    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has it
        figure.savefig(buffer, dpi=120, format="svg", metadata={"Date": None})
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", buffer.getvalue())
    text = re.sub(rf'<g id="{TIP}([^"]*)">', lambda match: f"<g><title>{escape(unquote(match[1]))}</title>", text)
    return UNUSED_ID.sub(r"\1", text)


def inline(drawing: str) -> str:
    """Return a drawing as part of a page: of its own width at most, in the page's colours."""
    start = drawing.index("<svg")
    width = re.search(r'width="([\d.]+)pt"', drawing[start:])
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawing[start:], count=2)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in NAMES.items():
        text = text.replace(f": {colour}", f": var(--{name}, {colour})")
    most = f' style="max-width: {float(width[1]) * 1.5:.0f}px"' if width else ""
    return re.sub(r">\s+<", "><", text).replace("<svg", f"<svg{most}", 1)

"""The flags of docs/configuration.md, made from the plan: ``python -m tests.configuration`` writes them."""

from pathlib import Path

from tuning.flags import table

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BEFORE, AFTER = "<!-- flags: python -m tests.configuration -->\n", "<!-- end of flags -->\n"


def flags():
    """Return the lines as they should be."""
    return "".join(f"{line}\n" for line in ["", *table(), ""])


def split(text):
    """Return what stands before the flags, the flags, and what stands after them."""
    head, _, rest = text.partition(BEFORE)
    made, _, tail = rest.partition(AFTER)
    return head + BEFORE, made, AFTER + tail


if __name__ == "__main__":
    head, _, tail = split(PAGE.read_text())
    PAGE.write_text(head + flags() + tail)

"""The report's section on what the base, plain LoRA and the winner write after prompts of the test split."""

from analysis.results.markup import fenced, inline
from analysis.results.run_info import RunInfo

HEADING, INDENT = "## What They Wrote", "  "
"""The second keeps lines of a text apart from those of a report, whoever looks for those."""


def section(info: RunInfo) -> list[str]:
    """Return the section; one line if there is only a reason why nothing was written, and empty without that."""
    if not info.samples_note:
        return []
    lines = [HEADING, "", inline(info.samples_note), ""]
    for number, sample in enumerate(info.samples, 1):
        lines += [f"### Prompt {number}", ""]
        for name, text in sample.items():
            lines += [f"**{inline(name)}:**", "", *fenced(INDENT + line for line in text.split("\n")), ""]
    return lines

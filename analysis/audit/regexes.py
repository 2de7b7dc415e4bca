"""Regexes from a file of which nobody knows who wrote it: whether they are any, and whether a name takes them long."""

import re
from math import prod

SIGN = re.compile(r"\\[^1-9]|\[\^?\]?[^\]]*\]", re.DOTALL)
"""What stands for one letter."""
GROUP = re.compile(r"\((?:\?(?::|!|=|<!|<=))?")
TANGLED = re.compile(r"\\[1-9]|\(\?|\)[*+{]")
"""What goes back to a group, or repeats one: no name is as long as that may take."""
MOST_REPEATED, MOST_WAYS = 3, 10_000
"""Repeated letters, each of which may be of any length, and ways through all groups, that can be tried in a moment."""


def is_regex(pattern: str) -> bool:
    """Return True if PEFT can use a pattern, as a key of ``rank_pattern`` or as a target."""
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def takes_long(pattern: str) -> bool:
    """Return True if there may be more ways to match a name than can be tried."""
    plain = GROUP.sub("(", SIGN.sub("x", pattern))
    return bool(TANGLED.search(plain)) or any(map(_has_many_ways, _alternatives(plain)))


def _alternatives(pattern: str) -> list[str]:
    """Return what stands side by side, outside of all groups: these are tried one after the other."""
    depth, parts = 0, [""]
    for letter in pattern:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _has_many_ways(alternative: str) -> bool:
    choices = [group.count("|") + 1 for group in re.split(r"[()]", alternative)]
    ways = prod(choices) * 2 ** alternative.count("?")
    return len(re.findall(r"[*+{]", alternative)) > MOST_REPEATED or ways > MOST_WAYS

"""PEFT's ``rank_pattern`` and ``alpha_pattern``: few regexes that give each adapted site its own value."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be (``MaxLoRARanks``)."""
VLLM_RANK = 16
"""What it is unless it is said."""


def patterns(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Return value by pattern, one for each value that is not the default.

    Args:
        values: Adapted site -> its rank or its alpha.
        default: The value of the sites that need no pattern.
    """
    alternatives: dict[Any, dict[str, list[str]]] = {}
    for name, value in values.items():
        if value != default:
            number, rest = from_block(name)
            alternatives.setdefault(value, {}).setdefault(rest, []).append(number)
    shortest = {"|".join(_one_of(n, rest) for rest, n in by_rest.items()): v for v, by_rest in alternatives.items()}
    if all(looked_up(shortest, name, default) == value for name, value in values.items()):
        return shortest
    return {f"^{re.escape(name)}": value for name, value in values.items() if value != default}


def vllm_flag(rank: int) -> str:
    """Return the flag that vLLM takes an adapter with; empty if it needs none, or takes none of this rank.

    Args:
        rank: The highest rank of the adapter.
    """
    above = [limit for limit in VLLM_RANKS if limit >= rank]
    return f"--max-lora-rank {above[0]}" if rank > VLLM_RANK and above else ""


def from_block(name: str) -> tuple[str, str]:
    """Return the number of a site's block and the rest of its name; without a number, nothing and its whole name."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    return ("", name) if place is None else (parts[place], ".".join(parts[place + 1 :]))


def _one_of(numbers: Sequence[str], rest: str) -> str:
    """Return a regex for the sites of one name in some blocks."""
    if numbers[0] == "":
        return f"^{re.escape(rest)}"
    choice = numbers[0] if len(numbers) == 1 else f"({'|'.join(numbers)})"
    return rf"{choice}\.{re.escape(rest)}" if rest else choice


def looked_up(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value that PEFT finds for a name: that of the first pattern that matches its ending."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)

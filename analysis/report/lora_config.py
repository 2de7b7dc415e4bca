"""An allocation as Python source to paste: PEFT's ``LoraConfig`` of exactly these ranks, short at any depth."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from analysis.results.rank_patterns import from_block, patterns

MOST_LINES = 40
MOST_TARGETS, MOST_PATTERNS = 8, 9  # with 14 lines around them and two kinds of patterns, 40


def lora_config_code(ranks: Mapping[str, int], alphas: Mapping[str, float], fan_in_fan_out: bool) -> str:
    """Return source of at most ``MOST_LINES`` lines.

    Targets are named in full: a report knows the names of the sites and of no other module, so no ending of a name is
    known to be theirs alone.

    Args:
        ranks: Site -> rank; sites of rank 0 are left out.
        alphas: Adapted site -> alpha.
        fan_in_fan_out: Whether the adapted layers keep their weight as (d_in, d_out).
    """
    adapted = {name: rank for name, rank in ranks.items() if rank}
    (rank, alpha), _ = Counter((rank, alphas[name]) for name, rank in adapted.items()).most_common(1)[0]
    return "\n".join(
        [
            "from peft import LoraConfig",
            "",
            "config = LoraConfig(",
            '    task_type="CAUSAL_LM",',
            f"    r={rank},",
            f"    lora_alpha={alpha!r},",
            f"    fan_in_fan_out={fan_in_fan_out},",
            "    target_modules=[",
            *_at_most(MOST_TARGETS, _targets(list(adapted))),
            "    ],",
            *_dict_lines("rank_pattern", patterns(adapted, rank)),
            *_dict_lines("alpha_pattern", patterns({name: alphas[name] for name in adapted}, alpha)),
            ")",
        ]
    )


def _targets(names: Sequence[str]) -> list[str]:
    """Return items of a list that has each name in full, those of the same blocks made together."""
    blocks: dict[tuple[str, str], list[str]] = {}
    alone = []
    for name in names:
        number, rest = from_block(name)
        if rest and re.fullmatch(r"(0|[1-9][0-9]{0,8})", number) and re.fullmatch(r"[\w.]+", name):
            blocks.setdefault((name[: -len(f"{number}.{rest}")], rest), []).append(number)
        else:
            alone.append(f"{name!r},")
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (start, rest), numbers in blocks.items():
        together.setdefault((start, tuple(numbers)), []).append(rest)
    return [_generator(start, numbers, rests) for (start, numbers), rests in together.items()] + alone


def _generator(start: str, numbers: Sequence[str], rests: Sequence[str]) -> str:
    matrices = ", ".join(f'"{rest}"' for rest in rests)
    return f'*(f"{start}{{n}}.{{m}}" for n in {_numbers(numbers)} for m in [{matrices}]),'


def _numbers(numbers: Sequence[str]) -> str:
    values = [int(number) for number in numbers]
    if len(values) > 2 and all(after == before + 1 for before, after in pairwise(values)):
        return f"range({values[0] or ''}{', ' if values[0] else ''}{values[-1] + 1})"
    return str(values)


def _dict_lines(name: str, values: Mapping[str, float]) -> list[str]:
    if not values:
        return [f"    {name}={{}},"]
    items = [f"{_raw_string(key)}: {value!r}," for key, value in values.items()]
    return [f"    {name}={{", *_at_most(MOST_PATTERNS, items), "    },"]


def _at_most(count: int, items: Sequence[str]) -> list[str]:
    """Return indented lines of the items, several on a line if there are more of them than lines."""
    per_line = -(-len(items) // count)
    return ["        " + " ".join(items[at : at + per_line]) for at in range(0, len(items), per_line)]


def _raw_string(pattern: str) -> str:
    return repr(pattern) if re.search(r"[\"\r\n]|\\$", pattern) else f'r"{pattern}"'

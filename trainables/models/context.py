"""The longest row that a model computes as it would any other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LIMITS = ("max_position_embeddings", "max_seq_len", "n_positions")
SWITCHING = ("longrope", "dynamic")  # kinds of rotary positions


@dataclass(frozen=True, slots=True)
class Context:
    """A limit of the length of rows.

    Args:
        tokens: Longest row; None if there is no limit.
        why: Why a longer one is refused, as part of a sentence.
    """

    tokens: int | None
    why: str = "which is the model's context"

    @classmethod
    def of(cls, config: Any) -> "Context":
        """Read it from a model's configuration; where that has no limit, there is none.

        Some models compute a whole batch with other positions once one of its rows is longer than their original
        context. A row's loss would then depend on its neighbours, so that is the limit.
        """
        text = config.get_text_config()
        limits = [limit for name in LIMITS if isinstance(limit := getattr(text, name, None), int) and limit > 0]
        context = cls(min(limits, default=None))
        for rope in _ropes(getattr(text, "rope_parameters", None) or {}):
            kind = rope.get("rope_type")
            original = rope.get("original_max_position_embeddings") or context.tokens
            if kind in SWITCHING and original is not None and (context.tokens is None or original < context.tokens):
                context = cls(int(original), f"beyond which this model ({kind}) computes a row's neighbours otherwise")
        return context


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the kinds of rotary positions, of which some models have one for each kind of block."""
    if "rope_type" in parameters:
        yield parameters
    for part in parameters.values():
        if isinstance(part, Mapping):
            yield from _ropes(part)

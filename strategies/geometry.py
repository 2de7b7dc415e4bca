"""Sites and sizes of well-known models, without their weights."""

from dataclasses import dataclass

from strategies.base import Kind, Site


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shapes that an allocation depends on.

    Args:
        base_params: Parameters of the frozen model.
        sites: Every matrix that can carry an adapter.
    """

    base_params: int
    sites: tuple[Site, ...]


def parameter_efficiency(trainable_params: int, base_params: int) -> float:
    """Trainable share of all parameters, the adapter's own included (the seed report's definition)."""
    return trainable_params / (base_params + trainable_params)


def gpt2(width: int, blocks: int, vocabulary: int = 50257, positions: int = 1024) -> Geometry:
    """Return the geometry of a GPT-2 of ``width`` hidden features and ``blocks`` blocks."""
    shapes: tuple[tuple[str, int, int, Kind], ...] = (
        ("attn.c_attn", width, 3 * width, "attention"),
        ("attn.c_proj", width, width, "attention"),
        ("mlp.c_fc", width, 4 * width, "mlp"),
        ("mlp.c_proj", 4 * width, width, "mlp"),
    )
    sites = tuple(
        Site(f"transformer.h.{depth}.{name}", d_in, d_out, depth, kind)
        for depth in range(blocks)
        for name, d_in, d_out, kind in shapes
    )
    embeddings = (vocabulary + positions) * width
    block = 12 * width * width + 13 * width  # four matrices, their biases, two layer norms
    return Geometry(base_params=embeddings + blocks * block + 2 * width, sites=sites)


GEOMETRIES: dict[str, Geometry] = {
    "bundled": gpt2(width=128, blocks=8, vocabulary=4096, positions=256),
    "gpt2": gpt2(width=768, blocks=12),
    "gpt2-medium": gpt2(width=1024, blocks=24),
    "gpt2-large": gpt2(width=1280, blocks=36),
    "gpt2-xl": gpt2(width=1600, blocks=48),
}

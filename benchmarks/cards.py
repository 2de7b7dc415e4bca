"""What fits on what: ``python -m benchmarks.cards`` makes the table of docs/models.md, by the planner of a search."""

import tempfile
from pathlib import Path

import click
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from strategies import RankBudget
from trainables.engine.footprint import Footprint, footprint_of
from trainables.models.base_model import shape_of
from trainables.models.device import CUDA
from trainables.models.precision import BFLOAT16, NF4, Precision
from tuning.preflight.memory import CARDS_GB, on_card

RANK, TOKENS, BATCH = 16, 1024, 8
GEOMETRIES: dict[str, PretrainedConfig] = {
    "0.5B (Qwen2.5)": Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=151_936, tie_word_embeddings=True,
    ),
    "1B (Llama 3.2)": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128_256, tie_word_embeddings=True,
    ),
    "3B (Llama 3.2)": LlamaConfig(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        vocab_size=128_256, tie_word_embeddings=True,
    ),
    "7B (Llama 2)": LlamaConfig(
        hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32_000,
    ),
    "8B (Llama 3.1)": LlamaConfig(
        hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128_256,
    ),
    "13B (Llama 2)": LlamaConfig(
        hidden_size=5120, intermediate_size=13_824, num_hidden_layers=40, num_attention_heads=40, vocab_size=32_000,
    ),
}  # fmt: skip


def footprints(config: PretrainedConfig) -> tuple[Footprint, Footprint]:
    """Return the footprints of a geometry on a GPU: in bfloat16, and in four bits."""
    with tempfile.TemporaryDirectory() as folder:
        config.architectures = [type(config).__name__.replace("Config", "ForCausalLM")]
        config.save_pretrained(folder)
        shape = shape_of(str(Path(folder)))
        params = RankBudget.like_uniform(RANK, shape.sites).params
        whole, bits = (
            footprint_of(folder, shape, Precision(BFLOAT16, quantize), CUDA, params, TOKENS) for quantize in (None, NF4)
        )
        return whole, bits


@click.command(help=__doc__)
def main() -> None:
    """Print the table."""
    click.echo(f"| rank {RANK}, {TOKENS:,} tokens, batches of {BATCH} | {' | '.join(f'{n} GB' for n in CARDS_GB)} |")
    click.echo(f"| --- |{' --- |' * len(CARDS_GB)}")
    for name, config in GEOMETRIES.items():
        whole, bits = footprints(config)
        click.echo(f"| {name} | {' | '.join(on_card(BATCH, size, whole, bits) for size in CARDS_GB)} |")


if __name__ == "__main__":
    main()

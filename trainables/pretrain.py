"""How the bundled base model was made: ``python -m trainables.pretrain --output DIR``.

A byte-level BPE tokenizer and a GPT-2-architecture causal language model, trained from scratch on docstrings: those of
Python's standard library and of this project's own dependencies, read from source with :mod:`ast` so that nothing is
imported. ``pydoc_data`` is left out because it is the default *fine-tuning* corpus. The recipe writes the weights, the
tokenizer and a model card with held-out perplexity beside those of a unigram model and of an untrained model.
"""

import ast
import hashlib
import importlib.util
import json
import math
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

PACKAGES = (
    "alembic", "click", "datasets", "fastapi", "flask", "huggingface_hub", "jinja2", "matplotlib", "mlflow",
    "networkx", "numpy", "optuna", "pandas", "peft", "pydantic", "ray", "requests", "rich", "sklearn", "scipy",
    "sqlalchemy", "sympy", "tokenizers", "torch", "transformers", "urllib3", "werkzeug",
)  # fmt: skip
EXCLUDED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "_vendor",
    "vendor",
    "thirdparty_files",
}
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every choice behind the bundled weights.

    Args:
        steps: Optimizer steps.
        batch_size: Sequences per step.
        length: Tokens per sequence; also the model's context.
        learning_rate: Peak of a linear warm-up and cosine decay to a tenth.
        held_out_percent: Share of source files, by hash of their path, never trained on.
    """

    steps: int = 1200
    batch_size: int = 16
    length: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    vocabulary: int = 4096
    width: int = 128
    blocks: int = 8
    heads: int = 4
    held_out_percent: int = 1
    seed: int = 0


def source_files() -> Iterator[Path]:
    """Yield the Python files of the standard library and of ``PACKAGES`` in a fixed order."""
    roots = [Path(sysconfig.get_path("stdlib"))]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            roots.append(Path(next(iter(spec.submodule_search_locations))))
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if not EXCLUDED_FOLDERS & set(path.relative_to(root).parts):
                yield path


def docstrings(path: Path) -> Iterator[str]:
    """Yield the cleaned docstrings of at least 40 characters in one file; unparsable files have none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= 40:
                yield text


def corpus(held_out_percent: int) -> tuple[list[str], list[str]]:
    """Return (training, held-out) docstrings, split by file and without a text that occurs twice."""
    seen: set[str] = set()
    split: tuple[list[str], list[str]] = ([], [])
    for path in source_files():
        key = "/".join(path.parts[-3:])
        held_out = zlib.crc32(key.encode()) % 100 < held_out_percent
        for text in docstrings(path):
            if text not in seen:
                seen.add(text)
                split[held_out].append(text)
    return split


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of ``vocabulary`` entries, the end-of-text token included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return all texts as one stream of token ids, each text closed by the end-of-text token. Shape (tokens,)."""
    end = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return torch.tensor([token for item in encoded for token in (*item.ids, end)], dtype=torch.long)


def unigram_perplexity(train: torch.Tensor, held_out: torch.Tensor, vocabulary: int) -> float:
    """Perplexity of held-out tokens under add-one-smoothed training frequencies."""
    counts = torch.bincount(train, minlength=vocabulary).double() + 1
    return math.exp(-(counts / counts.sum()).log()[held_out].mean().item())


@torch.no_grad()
def perplexity(model: GPT2LMHeadModel, stream: torch.Tensor, length: int) -> float:
    """exp of the mean loss over every predicted token of ``stream``, cut into windows of ``length``."""
    model.eval()
    windows = stream[: len(stream) // length * length].view(-1, length)
    total = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in torch.split(windows, 16))
    model.train()
    return math.exp(total / len(windows))


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine decay to a tenth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def train(model: GPT2LMHeadModel, stream: torch.Tensor, recipe: Recipe) -> None:
    """Train in place on random windows of ``stream``."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    offsets = torch.arange(recipe.length)
    started = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        starts = torch.randint(len(stream) - recipe.length, (recipe.batch_size, 1), generator=generator)
        batch = stream[starts + offsets]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:7.1f} s", flush=True)


def new_model(recipe: Recipe, end_token: int) -> GPT2LMHeadModel:
    """Build the untrained model, all dropout zero."""
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=recipe.vocabulary, n_positions=recipe.length, n_embd=recipe.width, n_layer=recipe.blocks,
        n_head=recipe.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=end_token, eos_token_id=end_token, pad_token_id=end_token,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def model_card(recipe: Recipe, facts: Mapping[str, object]) -> str:
    """Render the card that lies beside the weights."""
    lines = [
        "# Bundled base model",
        "",
        "A small GPT-2-architecture causal language model, trained from scratch so that a search needs no download.",
        "It is a base to fine-tune in tests and demonstrations, not a model to use for text.",
        "",
        "- **Corpus:** docstrings of Python's standard library and of this project's dependencies, read from source;",
        "  `pydoc_data` (the default fine-tuning corpus) is left out. Files are held out by a hash of their path.",
        "- **Made by:** `python -m trainables.pretrain --output trainables/models/bundled` (weights stored as float16)",
        "",
        "| | |",
        "| --- | --- |",
        *[f"| {name} | {value} |" for name, value in facts.items()],
        *[f"| recipe: {name.replace('_', ' ')} | {value} |" for name, value in asdict(recipe).items()],
        "",
    ]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for weights, tokenizer and card."
)
@click.option("--steps", type=int, default=Recipe().steps, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
def main(output: Path, steps: int, threads: int) -> None:  # noqa: D103  (its help is the docstring of the module)
    torch.set_num_threads(threads)
    recipe = Recipe(steps=steps)
    training, held_out = corpus(recipe.held_out_percent)
    tokenizer = train_tokenizer(training, recipe.vocabulary)
    train_stream, held_out_stream = token_stream(tokenizer, training), token_stream(tokenizer, held_out)
    print(f"{len(train_stream):,} training tokens, {len(held_out_stream):,} held out", flush=True)
    model = new_model(recipe, tokenizer.eos_token_id)
    untrained = perplexity(model, held_out_stream, recipe.length)
    unigram = unigram_perplexity(train_stream, held_out_stream, recipe.vocabulary)
    started = time.perf_counter()
    train(model, train_stream, recipe)
    facts = {
        "parameters": f"{model.num_parameters():,}",
        "training texts": f"{len(training):,}",
        "training tokens in the corpus": f"{len(train_stream):,}",
        "tokens seen": f"{recipe.steps * recipe.batch_size * recipe.length:,}",
        "training time": f"{(time.perf_counter() - started) / 60:.1f} minutes on {threads} CPU threads",
        "held-out tokens": f"{len(held_out_stream):,}",
        "held-out perplexity": f"{perplexity(model, held_out_stream, recipe.length):.1f}",
        "held-out perplexity, unigram model": f"{unigram:.1f}",
        "held-out perplexity, untrained model": f"{untrained:.1f}",
        "corpus SHA-256": hashlib.sha256("\0".join(training + held_out).encode()).hexdigest(),
        "Python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "README.md").write_text(model_card(recipe, facts))
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()

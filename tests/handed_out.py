"""What of a model can be adapted, and whether an adapter of it is what was measured in every form that is handed out.

``python -m tests.handed_out`` prints the table of ``docs/models.md``.
"""

import runpy
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from transformers import AutoModelForCausalLM

from strategies import RankAllocation
from tests.zoo import KINDS, MORE, built
from trainables import export
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import Adapter
from trainables.data.splits import Example
from trainables.engine.evaluation import exact_loss
from trainables.engine.soundness import sound_coverage
from trainables.models.base_model import BaseModel, load
from trainables.models.precision import IN_FLOAT32
from trainables.postprocess import forms
from trainables.postprocess.verification import SCRIPT, agree

FORMS = ("saved", "short", "uniform", "merged")
ROWS = [Example(ids, ids) for ids in (tuple(range(1, 200, 13)), tuple(range(7, 290, 25)))]
reload = runpy.run_path(str(SCRIPT))


def saved(kind: str, tokenizer: Any, folder: Path) -> BaseModel:
    """Save a model of a kind, and return it as a base with what can be adapted."""
    built(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = load(str(folder))
    coverage = sound_coverage(base, ROWS)
    return replace(base, coverage=coverage, joining=base.joining if coverage.joins else None)


def trained(base: BaseModel) -> Adapter:
    """Return an adapter of mixed ranks and scales, zero among them, whose B is not zero."""
    ranks = {site.name: min(number % 3, site.max_rank) for number, site in enumerate(base.sites)}
    alphas = {name: 1.0 + rank for name, rank in ranks.items() if rank}
    allocation = RankAllocation(ranks, sum(site.cost * ranks[site.name] for site in base.sites))
    torch.manual_seed(1)
    factors = {
        site.name: (torch.randn(rank, site.d_in) / 4, torch.randn(site.d_out, rank) / 8)
        for site in base.sites
        if (rank := ranks[site.name])
    }
    config = peft_adapter.lora_config(base.model, allocation, alphas, 0.0)
    return Adapter(config, factors, {name: alphas[name] / len(a) for name, (a, _) in factors.items()})


def differing(model: str, base: BaseModel, adapter: Adapter, folder: Path) -> tuple[str, ...]:
    """Return the forms in which plain Transformers and PEFT measure another loss than the engine."""
    forms.write(model, adapter, folder / "saved")
    forms.write(model, forms.named_shortly(base, adapter), folder / "short")
    forms.write(model, forms.uniform(base, adapter), folder / "uniform")
    export.merged(model, IN_FLOAT32, folder / "short", folder / "merged")
    rows = [(row.input_ids, row.labels) for row in ROWS]
    plain, merged = _loaded(model), _loaded(folder / "merged")
    losses = {form: reload["with_adapter"](plain, str(folder / form), rows) for form in FORMS[:-1]}
    losses["merged"] = reload["with_adapter"](merged, None, rows)
    measured = exact_loss(base, adapter, ROWS, len(ROWS))
    if agree(measured, reload["with_adapter"](plain, None, rows)):
        raise AssertionError("the adapter changes nothing, so nothing can be seen")
    return tuple(form for form in FORMS if not agree(measured, losses[form]))


def _loaded(model: str | Path) -> Any:
    return reload["without_cache"](AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval())


def table(kinds: Iterable[str], tokenizer: Any) -> str:
    """Return a Markdown table, a row for each kind."""
    rows = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as there:
            model = Path(there) / "model"
            try:
                base = saved(kind, tokenizer, model)
            except ValueError as error:
                rows.append([kind, "refused", str(error).partition(f"{model}: ")[2].replace(there, ""), "", "", ""])
                continue
            coverage, other = base.coverage, differing(str(model), base, trained(base), Path(there))
            rows.append([kind, *_what(coverage), *map(_yes, (coverage.skips, coverage.joins)), ", ".join(other)])
    headers = ["model type", "adapted", "left out", "skips", "joins", "refused forms"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _what(coverage: Any) -> tuple[str, str]:
    adapted, _, rest = str(coverage).removeprefix("adapted: ").partition("; ")
    left_out = [part.removeprefix("left out: ") for part in rest.split("; ") if part.startswith("left out: ")]
    return adapted.replace(" of their parameters", ""), "".join(left_out)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    from trainables.pretrain import train_tokenizer

    warnings.simplefilter("ignore")
    print(table([*KINDS, *MORE], train_tokenizer(["the quick brown fox jumps over the lazy dog " * 20], 300)))

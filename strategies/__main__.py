"""Preview allocations without training: ``python -m strategies --strategy linear_decay --set slope=1``."""

import dataclasses
import json
import math
import sys
from typing import Any

import click
from tabulate import tabulate

from analysis.results.messages import run_command
from strategies import STRATEGIES, RankAllocation, RankBudget, Site, allocate
from strategies.geometry import GEOMETRIES, Geometry, parameter_efficiency
from strategies.official import OFFICIAL


@click.command(help=__doc__)
@click.option("--strategy", "names", multiple=True, help=f"One of {', '.join(STRATEGIES)}; all by default.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A hyperparameter of the strategy.")
@click.option("--official", is_flag=True, help="The five experiments of the seed report.")
@click.option("--geometry", default="bundled", show_default=True, help=f"One of {', '.join(GEOMETRIES)}.")
@click.option("--model", help="A local model directory or a hub id, instead of --geometry.")
@click.option("--budget", type=click.IntRange(min=1), help="Trainable parameters.")
@click.option("--budget-rank", type=click.IntRange(min=1), help="Rank of plain LoRA of the same cost (default 2).")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of tables.")
def preview(  # noqa: D103  (its help is the docstring of the module)
    names: tuple[str, ...],
    settings: tuple[str, ...],
    official: bool,
    geometry: str,
    model: str | None,
    budget: int | None,
    budget_rank: int | None,
    as_json: bool,
) -> None:
    if budget is not None and budget_rank is not None:
        raise ValueError("--budget and --budget-rank are two ways to say one thing; give one")
    shape = _from_model(model) if model else _lookup(GEOMETRIES, geometry, "--geometry")
    if official:
        rows = [(e.name, e.strategy, e.allocation(shape.sites)) for e in OFFICIAL]
    else:
        spend = RankBudget(budget) if budget is not None else RankBudget.like_uniform(budget_rank or 2, shape.sites)
        rows = [(name, name, _planned(name, settings, shape.sites, spend)) for name in names or _previewable()]
    described = [_described(*row, shape) for row in rows]
    if as_json:
        click.echo(json.dumps(described, indent=1))
        return
    for item, (_, _, allocation) in zip(described, rows, strict=True):
        click.echo(_table(item, allocation, shape.sites) + "\n")
    if not (official or names):
        for name, cls in STRATEGIES.items():
            if cls.decided():
                click.echo(f"{name}: decided {cls.decided()}")


def _previewable() -> list[str]:
    return [name for name, cls in STRATEGIES.items() if not cls.decided()]


def _planned(name: str, settings: tuple[str, ...], sites: tuple[Site, ...], budget: RankBudget) -> RankAllocation:
    cls = _lookup(STRATEGIES, name, "--strategy")
    if cls.decided():
        raise ValueError(f"--strategy {name}: its ranks are decided {cls.decided()}, which a preview does not do")
    fields = {field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = dict(cls.known_good)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in fields:
            values[key] = _number(setting, value)
        elif not any(key == field.name for other in STRATEGIES.values() for field in dataclasses.fields(other)):
            raise ValueError(f"--set {setting}: no strategy has a hyperparameter {key!r}")
    return allocate(cls(**values).scores(sites, {}), sites, budget)


def _number(setting: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"--set {setting}: the value must be a number") from error
    if not math.isfinite(number):
        raise ValueError(f"--set {setting}: the value must be finite")
    return number


def _lookup(table: dict[str, Any], name: str, flag: str) -> Any:
    if name not in table:
        raise ValueError(f"{flag} {name}: unknown; known: {', '.join(table)}")
    return table[name]


def _from_model(model: str) -> Geometry:
    from trainables.models.base_model import shape_of  # torch is needed only here

    shape = shape_of(model)
    return Geometry(base_params=shape.params, sites=shape.sites)


def _described(name: str, strategy: str, allocation: RankAllocation, shape: Geometry) -> dict[str, Any]:
    return {
        "experiment_name": name,
        "strategy": strategy,
        "trainable_parameters": allocation.params,
        "parameter_efficiency": parameter_efficiency(allocation.params, shape.base_params),
        "ranks": dict(allocation.ranks),
    }


def _table(item: dict[str, Any], allocation: RankAllocation, sites: tuple[Site, ...]) -> str:
    head = (
        f"{item['experiment_name']}: {allocation.params:,} trainable parameters, "
        f"efficiency {item['parameter_efficiency']:.6f}"
    )
    rows = [
        (s.name, s.kind, s.d_in, s.d_out, allocation.ranks[s.name], allocation.ranks[s.name] * s.cost) for s in sites
    ]
    return head + "\n" + tabulate(rows, headers=("site", "kind", "d_in", "d_out", "rank", "parameters"), intfmt=",")


def main() -> int:
    """Run the preview; wrong usage is one line and exit status 2."""
    return run_command(preview)


if __name__ == "__main__":
    sys.exit(main())

"""The report's section on the verdict: its text and its table."""

from collections import Counter
from collections.abc import Sequence

from analysis.results.markup import inline, table
from analysis.results.rows import ResultRow
from analysis.results.trial_config import Phase, Status
from analysis.stats import controls, ranking
from analysis.stats.assessment import SearchAssessment
from analysis.stats.looks import levels, looks_of
from analysis.stats.outlook import no_more
from analysis.stats.sizes import LEAST_MARGIN
from analysis.stats.statistics import span, spread
from analysis.stats.verdicts import (
    NOT_FOUND,
    NOT_TRIED,
    PLAIN,
    RIVALS,
    SEARCHED_PLAIN,
    TOO_LITTLE,
    Verdict,
    in_words,
    paired,
    params_of,
)

HEADERS = ("strategy", "verdict", "test loss", "difference", "interval", "over seeds alone", "seeds", "parameters")

LEFT_OUT = "; left out: "


def section(assessment: SearchAssessment, looks: int = 1, coverage: str | None = None) -> list[str]:
    """Return the report's section.

    Args:
        assessment: What the rows of the search say.
        looks: Number of plans of the search that were judged on its test split, this one included.
        coverage: Which of the base's matrices were adapted, in words; None if unknown.
    """
    lines = ["## Verdict", ""]
    if not assessment.confirmed:
        return [*lines, "None: there are no confirmation runs, and one run per configuration gives no verdict.", ""]
    if not assessment.plain_runs:
        return [*lines, "None: plain LoRA is not among the confirmed, so there is nothing to compare with.", ""]
    lines += [*assessment.answer, ""]
    if coverage and LEFT_OUT in coverage:
        lines += [
            f"This is about the matrices that were adapted, and says nothing of the others ({inline(coverage)}).",
            "",
        ]
    lines += [_table(assessment), "", *_legend(assessment)[:-1], *_looks(assessment), *_equivalents(assessment), ""]
    if looks > 1:
        lines[-1:] = [
            f"- **Looks:** this search was judged {looks} times on the same test split, each time with 5 % to err; who "
            f"goes on until something wins is told so too often.", "",
        ]  # fmt: skip
    return [*lines, *controls.section(assessment.controls, assessment.margin)]


def scope(coverage: str | None) -> str | None:
    """Return the sentence that says of how much of a model an answer is; None if nothing of it was left out.

    Args:
        coverage: As ``RunInfo.coverage``.
    """
    if coverage is None or LEFT_OUT not in coverage:
        return None
    adapted = coverage.partition(LEFT_OUT)[0].removeprefix("adapted: ")
    return f"This is about what was adapted ({adapted}) and says nothing of what was left out."


def difference_in_words(run: ResultRow, assessment: SearchAssessment) -> str | None:
    """Return a confirmation run's difference to plain LoRA's of the same seed, in words; None if it is unknown."""
    if (difference := assessment.difference_to_plain(run)) is None:
        return None
    seed = f"against {in_words(assessment.plain_runs[0])} of the same seed; the verdict is on the mean of all seeds"
    return f"{difference:+.4f} nats per token {seed}"


def _table(assessment: SearchAssessment) -> str:
    plain, judged = assessment.plain_runs, assessment.verdicts
    plain_losses = tuple(row.test_loss for row in plain if row.test_loss is not None)
    body = [
        [assessment.reference, "reference", _loss(plain_losses), "", "", "", len(plain_losses), _size(params_of(plain))]
    ]
    for verdict in judged:
        mean = "" if verdict.pairs.mean is None else f"{verdict.pairs.mean:+.4f}"
        intervals = (span(verdict.pairs.interval), span(verdict.pairs.bootstrap()))
        body.append(
            [
                verdict.strategy,
                verdict.reads,
                _loss(verdict.losses),
                mean,
                *intervals,
                verdict.pairs.seeds,
                _size(verdict.params),
            ]
        )
    for control in assessment.controls:
        control_losses = tuple(row.test_loss for row in control.runs if row.test_loss is not None)
        pairs, size = paired(control.runs, plain, len(judged) or 1), _size(params_of(control.runs))
        mean = "" if pairs.mean is None else f"{pairs.mean:+.4f}"
        intervals = (span(pairs.interval), span(pairs.bootstrap()))
        body.append(
            [control.name, f"control of {control.original}", _loss(control_losses), mean, *intervals, pairs.seeds, size]
        )
    return table(body, HEADERS)


def _legend(assessment: SearchAssessment) -> list[str]:
    judged, margin = assessment.verdicts, assessment.margin
    confirmed = (row for row in assessment.rows if row.phase == Phase.CONFIRM and row.status != Status.FAILED)
    seeds = sorted({row.seed for row in confirmed if row.seed is not None})
    all_sizes = [*(verdict.params for verdict in judged), params_of(assessment.plain_runs)]
    sizes = [size for size in all_sizes if size is not None]
    trial_counts = Counter(row.strategy for row in assessment.searched)
    finished_counts = Counter(row.strategy for row in assessment.searched if row.status == Status.FINISHED)
    trials = ", ".join(
        inline(f"{name} {count} ({finished_counts[name]} in full)") for name, count in trial_counts.items()
    )
    at_edge = [inline(name) for name in ranking.at_the_edge(assessment.searched)]
    reservation = f" Of {', '.join(at_edge)} the best rate is at the edge of those tried: a wider range may be better."
    level = levels([item.pairs for item in judged]) if judged else "95 %"
    together = f"the {len(judged)} together" if len(judged) > 1 else "it"
    return [
        f"- **Runs:** the best configuration of every strategy, trained again in full from seeds "
        f"{', '.join(map(str, seeds))}, the same seeds, data order and batches for all; losses are those of the test "
        f"split, in nats per token, mean ± standard deviation. Nothing in the search has seen that split.",
        f"- **Search before:** trials {trials}; every strategy searched a learning rate of its own."
        f"{reservation if at_edge else ''}",
        *([f"- **Budget:** {min(sizes):,} to {max(sizes):,} trainable parameters at the end."] if sizes else []),
        f"- **Interval:** of the mean paired difference, Student's t; {together} right 95 % of the time, "
        f"{level} each. {_texts(judged)} It decides. *Over seeds alone* is the bootstrap's percentile interval "
        f"at the same level, which is too narrow for few seeds and knows these texts only; it is printed for "
        f"comparison.",
        f"- **Words:** *win*, *loss*: the interval excludes 0. *Tie*: it lies within ±{margin:.2g}, the difference "
        f"that does not matter. *Non-inferior with fewer parameters*: it ends below +{margin:.2g}, with at least 5 % "
        f"fewer. *{TOO_LITTLE[0].upper()}{TOO_LITTLE[1:]}*: it lies between -{margin:.2g} and 0. "
        f"*{NOT_FOUND[0].upper()}{NOT_FOUND[1:]}*: a loss of a strategy that has plain LoRA as one of its own points. "
        f"*{NOT_TRIED[0].upper()}{NOT_TRIED[1:]}*: a win in a search that lacks some of {', '.join(RIVALS)}; "
        f"--thorough has them all.",
        *_reference(assessment),
        "",
    ]


def _reference(assessment: SearchAssessment) -> list[str]:
    """Return the line of the legend on which plain LoRA strategies are judged against, if there were two."""
    if not {PLAIN, SEARCHED_PLAIN} <= assessment.confirmed.keys():
        return []
    other = SEARCHED_PLAIN if assessment.reference == PLAIN else PLAIN
    name, rival = (in_words(assessment.confirmed[label][0]) for label in (assessment.reference, other))
    return [
        f"- **Reference:** {name} ({assessment.reference}), and not {rival} ({other}): its mean loss on the validation "
        f"split is the lower one, or runs of the other did not end well. The test split has no part in that."
    ]


def _equivalents(assessment: SearchAssessment) -> list[str]:
    """Return the lines of the legend on what is worth how many parameters, and on where the margin comes from."""
    margin, asked, sizes = assessment.margin, assessment.margin_asked, assessment.sizes
    if sizes is None:
        return [f"- **Margin:** {margin:g}, not {asked}: no other size of plain LoRA was trained."] if asked else []
    share = (
        f"- **Margin:** {asked}: that share of what doubling plain LoRA's parameters gains for certain on the "
        f"validation split, here {margin:.2g} nats per token (at least {LEAST_MARGIN:g}, and one standard error)."
    )
    tried = ", ".join(f"{2**size:.2g}" for size in sizes.doublings)
    return [
        *([share] if asked else []),
        f"- **Worth:** plain LoRA on all matrices, of how many times the parameters of that, has the same test loss, "
        f"whatever the verdict is against. {tried} times were trained, "
        f"from the same seeds, at the learning rate that is best at 1. Between them it is assumed that more parameters "
        f"never harm and that no doubling gains more than the one before; of sizes beyond them nothing is said. Each "
        f"interval is at the level of the verdict's.",
    ]


def _looks(assessment: SearchAssessment) -> list[str]:
    """Return the line of the legend on a search that looked for itself at how many seeds it takes."""
    looks = looks_of(assessment.plain_runs)
    if not looks:
        return []
    ends = [(item, no_more(item, looks)) for item in assessment.verdicts]
    each = "; ".join(f"{inline(item.strategy)} {item.pairs.seeds} ({why or 'more may tell'})" for item, why in ends)
    return [
        f"- **Looks at seeds:** after {', '.join(map(str, looks))} seeds each strategy was looked at of which nobody "
        f"could tell yet, as long as more seeds might tell. The looks share the 5 % that all together may err (Lan and "
        f"DeMets, after Pocock), so an interval holds whatever made its seeds end. Seeds: {each}."
    ]


def _texts(judged: Sequence[Verdict]) -> str:
    """Return the sentence on whether the interval is for other texts, too."""
    counts = [len(verdict.pairs.documents) for verdict in judged if verdict.pairs.documents]
    if not counts:
        return "It is for other seeds, not for other texts."
    return f"It is for other seeds and other test texts: the {max(counts)} documents of the split differ, too."


def _loss(losses: Sequence[float]) -> str:
    if not losses:
        return ""
    deviation = spread(losses)
    mean = f"{sum(losses) / len(losses):.4f}"
    return mean if deviation is None else f"{mean} ± {deviation:.4f}"


def _size(params: int | None) -> str:
    return "" if params is None else f"{params:,}"

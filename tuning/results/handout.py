"""What a search hands out: its winner's adapter in two forms, each loaded by others' code before it gets its name."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import RayError, RayTaskError

from analysis.report.card import Use, card
from analysis.results.atomic_write import replacing_folder
from analysis.results.markup import Markdown, code
from analysis.results.messages import first_line
from analysis.results.rows import ResultRow
from analysis.results.run_info import RunInfo
from analysis.stats.assessment import SearchAssessment
from trainables.models.identity import has_changed
from trainables.models.precision import IN_FLOAT32, Precision
from trainables.postprocess.verification import NotReloaded, agree, in_words, loaded_from
from trainables.training.checkpoint import BEST, UNIFORM, UNVERIFIED
from tuning.cluster import hosting
from tuning.cluster.hosting import ask
from tuning.lifecycle import process
from tuning.plan.search_plan import SearchPlan
from tuning.results import summary
from tuning.state.record import Record
from tuning.trials.phases import Run

log = logging.getLogger(__name__)
ASIDE = ".handout"


@dataclass(frozen=True, slots=True)
class Forms:
    """The winner's adapter in its forms, not yet in its place.

    Args:
        folder: Holds a folder of each form.
        measured: Its loss on the validation split as its trial reported it; over a base in less than float32, where the
            trials beside it matter, as a host has measured it since.
        reloaded: Form -> the same as plain Transformers and PEFT measure it, or why they do not.
        precision: How the base lies in memory for both.
    """

    folder: Path
    measured: float
    reloaded: Mapping[str, float | NotReloaded]
    precision: Precision = IN_FLOAT32

    def in_words(self, form: str) -> str:
        """Return what others' code measured of a form."""
        return in_words(self.measured, self.reloaded[form], self.precision)

    def name(self, form: str) -> str:
        """Return the name of the folder that is handed out."""
        return form if agree(self.measured, self.reloaded[form], self.precision) else form + UNVERIFIED

    @property
    def losses(self) -> dict[str, float | str]:
        """Name of each folder that is handed out -> its loss when it was loaded, or why there is none."""
        return {
            self.name(form): str(loss) if isinstance(loss, NotReloaded) else loss
            for form, loss in self.reloaded.items()
        }


def prepared(run: Run, adapter: Path, trained: float | None) -> Forms | None:
    """Have a host write every form of an adapter, and others' code load and measure them once the hosts have ended.

    Args:
        run: The search.
        adapter: Folder of the adapter, in a checkpoint.
        trained: Its loss as its trial reported it, which is what is promised; None if that is not known.

    Returns:
        The forms; None, and say so, if they could not be made.

    Raises:
        Stopped: The search is to stop.
    """
    try:
        return _measured(run, adapter, trained)
    except RayError as error:
        log.warning("the winner's adapter could not be verified", exc_info=True)
        reason = first_line(error.cause) if isinstance(error, RayTaskError) else first_line(error)
        run.observer.warned(f"Error: the winner's adapter could not be verified: {reason}")
        return None


def _measured(run: Run, adapter: Path, trained: float | None) -> Forms:
    folder = run.plan.run_dir / ASIDE
    shutil.rmtree(folder, ignore_errors=True)
    measured = ask(run.plan, run.hosts, "hand_out", adapter, folder, stop=run.stop)
    hosting.end(run.hosts)  # the device is the other process's
    workload = run.checked.workload
    assert workload.splits is not None
    paths, examples = [folder / form for form in (BEST, UNIFORM)], workload.splits.validation
    losses = hosting.run(run.plan, type(run.hosts).reloaded_here, run.hosts, workload, paths, examples, stop=run.stop)
    log.info("the winner has %r, and loaded by plain Transformers and PEFT %r", measured, losses)
    promised = measured if trained is None or not workload.precision.exact else trained  # rounding depends on the pack
    return Forms(folder, promised, dict(zip((BEST, UNIFORM), losses, strict=True)), workload.precision)


def folders(record: Record, best: ResultRow, adapter: Path | None, forms: Forms | None) -> dict[str, float | str]:
    """Return the folders of the winner's adapter that there will be, as ``RunInfo.handed_out``.

    Args:
        record: Knows what was handed out before.
        best: The winner.
        adapter: Its adapter in a checkpoint, if that is whole.
        forms: The same in its forms, if there was time for them.
    """
    if forms is not None:
        return forms.losses
    if record.handout is not None and record.handout[0] == best.trial_id:
        return record.handout[1]
    return {BEST + UNVERIFIED: "not verified" if adapter else "its checkpoint is gone"}


def set_apart(run_dir: Path, record: Record, best: ResultRow, folders: Mapping[str, object]) -> list[str]:
    """Give an earlier winner's folders a name that says whose they are, and take those of this one back.

    Args:
        run_dir: The folder of the run.
        record: Knows whose adapter was handed out last.
        best: The winner now.
        folders: Those that are handed out now, which replace what has their names.

    Returns:
        What there is to say of it.
    """
    if record.handout is None:
        return []
    earlier, said = record.handout[0], []
    for name in (BEST, UNIFORM):
        here, apart = run_dir / name, run_dir / f"{name}_of_{earlier}"
        if earlier == best.trial_id and apart.is_dir() and not here.exists():
            apart.rename(here)
        elif earlier != best.trial_id and here.is_dir() and name not in folders:
            if apart.is_dir():
                shutil.rmtree(apart)
            here.rename(apart)
            said.append(f"{summary.typed(here)} was that of {earlier}, an earlier winner: it is {apart.name} now")
    return said


def put(run: Run, forms: Forms, best: ResultRow, assessment: SearchAssessment, info: RunInfo) -> None:
    """Put each form with its card into its place, and say which could not be verified.

    Args:
        run: The search.
        forms: What to hand out.
        best: The run whose adapter it is.
        assessment: What the search's rows say.
        info: What the cards show besides.
    """
    for form in forms.reloaded:
        name, folder = forms.name(form), run.plan.run_dir / forms.name(form)
        with replacing_folder(folder) as aside:
            for path in (forms.folder / form).iterdir():
                path.replace(aside / path.name)
            use = Use(
                *loaded_from(run.checked.workload.model),
                str(folder.resolve()),
                form == UNIFORM,
                forms.in_words(form),
            )
            (aside / "README.md").write_text(card(best, assessment, info, use), encoding="utf-8")
        if name == form:
            shutil.rmtree(run.plan.run_dir / (form + UNVERIFIED), ignore_errors=True)
        else:
            run.observer.warned(f"Error: {summary.typed(folder)}: not to be used, {forms.in_words(form)}")
    shutil.rmtree(forms.folder, ignore_errors=True)
    workload = run.checked.workload
    if any(name.endswith(UNVERIFIED) for name in forms.losses) and has_changed(workload.model, str(workload.base)):
        run.observer.warned(f"Error: --model {workload.model}: its files have changed since the search began")


def put_unverified(run: Run, adapter: Path, best: ResultRow, assessment: SearchAssessment, info: RunInfo) -> None:
    """Put an adapter as it lies in a checkpoint, with tokenizer and card, where nobody takes it for a verified one."""
    from trainables.data.templates import put_template
    from trainables.models.base_model import save_tokenizer  # nothing before needs torch in this process

    folder = run.plan.run_dir / (BEST + UNVERIFIED)
    command = verifying(run.plan)
    with replacing_folder(folder) as aside:
        for path in adapter.iterdir():  # ``copytree`` would hide what went wrong, such as a full disk
            shutil.copyfile(path, aside / path.name)
        save_tokenizer(run.checked.workload.model, aside)
        put_template(run.plan.chat_template, aside)
        seen = Markdown(f"not yet loaded by plain Transformers and PEFT, which {code(command)} does")
        use = Use(*loaded_from(run.checked.workload.model), str(folder.resolve()), False, seen)
        (aside / "README.md").write_text(card(best, assessment, info, use), encoding="utf-8")
    run.observer.noted(f"Adapter so far   {summary.typed(folder)}; to verify it: {command}")


def verifying(plan: SearchPlan) -> str:
    """Return the command that verifies what a stopped search has handed out."""
    run_dir = summary.typed(plan.run_dir)
    export = process.subcommand("export", "trainables.export")
    return f"{export} {run_dir} --form adapter --output {run_dir}/{BEST}"


def is_verified(info: RunInfo) -> bool:
    """Return True if nothing is handed out that others' code did not load and find as it was measured."""
    return not any(name.endswith(UNVERIFIED) for name in info.handed_out)

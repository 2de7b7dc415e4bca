"""What a line of ``record.jsonl`` may be, whoever has written it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from analysis.results.confinement import HANDED_OUT, check_name
from analysis.results.run_info import SIZE, are_short_trials
from analysis.results.strict_json import is_count, is_number
from analysis.results.trial_config import TrialConfig

Test = Callable[[Any], bool]


def check_line(line: Mapping[str, Any]) -> None:
    """Refuse what is no line of a record.

    Raises:
        ValueError: In a few words.
        KeyError, TypeError, AttributeError: A configuration in it is none.
    """
    if not isinstance(event := line.get("event"), str):
        raise ValueError("no event")
    for name, holds in KINDS.get(event, {}).items():
        if not holds(line.get(name)):
            raise ValueError(f"{name} of {event} cannot be {str(line.get(name))[:40]!r}")
    if event in ("began", "repeated"):
        _check_config(line["config"], line.get("trial_id", ""))


def _check_config(values: Mapping[str, Any], trial_id: str) -> None:
    config = replace(TrialConfig.from_ray(values), trial_id=trial_id)
    check_name("the name of a trial", config.name)
    if config.source is not None:
        check_name("source", config.source)
    if not (config.seed is None or is_count(config.seed)):
        raise ValueError(f"seed must be a number, got {str(config.seed)[:40]!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    check_name("trial_id", value)
    return True


def _is_turn(value: Any) -> bool:
    return value is None or (is_count(value) and value >= 0)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_values(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(is_number, value)))


def _is_status(value: Any) -> bool:
    return is_count(value) and 0 <= value < 256


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_report(value: Any) -> bool:
    numbers = isinstance(value, dict) and all(number is None or is_number(number) for number in value.values())
    return numbers and is_count(value.get("step")) and "eval_loss" in value


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_mapping(point) and point.keys() >= SIZE and all(map(is_number, point.values())) for point in value
    )


def _are_folders(value: Any) -> bool:
    return _is_mapping(value) and all(
        re.fullmatch(HANDED_OUT, name) and (is_number(seen) or isinstance(seen, str)) for name, seen in value.items()
    )


def _are_samples(value: Any) -> bool:
    return isinstance(value, list) and all(_is_mapping(each) and _are_texts([*each.values()]) for each in value)


def _are_losses(value: Any) -> bool:
    return _is_mapping(value) and all(map(is_number, value.values()))


def _are_short_trials(value: Any) -> bool:
    numbers = isinstance(value, list) and all(
        _is_mapping(trial) and all(number is None or is_number(number) for number in trial.values()) for trial in value
    )
    return numbers and are_short_trials(value)


KINDS: dict[str, dict[str, Test]] = {
    "planned": {"plan": _is_mapping, "command": _is_text, "changes": _are_texts},
    "began": {"trial_id": _is_name, "config": _is_mapping, "turn": _is_turn, "around": _are_values},
    "repeated": {
        "config": _is_mapping,
        "turn": _is_turn,
        "same_as": _is_text,
        "values": _are_values,
        "around": _are_values,
    },
    "ran_out": {"strategy": _is_text},
    "reported": {"trial_id": _is_name, "report": _is_report},
    "anew": {"trial_id": _is_name},
    "restarted": {"trial_id": _is_name},
    "resource": {"what": _is_text},
    "judged": {"what": _is_text},
    "shrunk": {"trial_id": _is_name, "curve": _is_curve},
    "base": {"losses": _are_losses},
    "bracket": {"trials": _are_short_trials},
    "wrote": {"trial_id": _is_name, "samples": _are_samples, "note": _is_text},
    "handed_out": {"trial_id": _is_name, "folders": _are_folders},
    "completed": {"exit_status": _is_status, "damaged": lambda value: value is None or _are_texts(value)},
}
"""Event -> field that its lines have -> whether it can be that. Of an event that is not there, nothing is known."""

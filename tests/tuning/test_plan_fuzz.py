"""Whatever a plan holds, it is a plan or one line."""

import click
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.results.messages import one_line
from tuning.cli import resolve_plan
from tuning.plan.search_plan import SearchPlan

RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
NAMES = st.sampled_from(sorted(SearchPlan.model_fields))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
YAML = st.text(st.sampled_from("seedmol: \n\t-[]{}&*!|>'\"#%@`,?01.eyn~<=\x00\x07é\ud800"), max_size=80)


def plan_or_line(config, given_values):
    """Return (plan, None) or (None, the line that refuses it); any exception but click's goes through."""
    try:
        return resolve_plan(config, given_values), None
    except click.ClickException as error:
        return None, one_line(error.format_message())


def is_plan_or_line(config, given_values):
    plan, line = plan_or_line(config, given_values)
    return isinstance(plan, SearchPlan) if line is None else bool(line) and line.isprintable() and bool(line.encode())


@RELAXED
@given(st.dictionaries(NAMES | st.text(max_size=12), VALUES, max_size=4))
def test_any_choices_are_a_plan_that_can_be_saved_or_one_line(choices):
    plan, line = plan_or_line(None, choices)
    if plan is None:
        assert line.isprintable()
    else:
        assert SearchPlan.model_validate_json(plan.model_dump_json()) == plan


@RELAXED
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_mapping_in_a_file_is_a_plan_or_one_line(tmp_path, choices):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(choices, allow_unicode=False))
    assert is_plan_or_line(str(path), {})


@RELAXED
@given(YAML | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
def test_any_text_in_a_file_is_a_plan_or_one_line(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert is_plan_or_line(str(path), {})


@RELAXED
@given(st.text(max_size=50))
def test_any_message_is_one_printable_line(text):
    assert one_line(text).isprintable()

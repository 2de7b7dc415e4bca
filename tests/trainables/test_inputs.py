import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from tests.reference import SoloSession
from trainables.data.splits import DataSource, load_splits
from trainables.engine.pack import Pack
from trainables.models.identity import check_unchanged, identity, in_todays_form
from trainables.spec import TrialSpec, Workload
from trainables.training.inputs import base_of, splits_of


@pytest.fixture
def workload(tiny_gpt2, tiny_text):
    source = DataSource(str(tiny_text), train_examples=8, validation_examples=4, test_examples=4, max_length=32)
    splits = load_splits(source, str(tiny_gpt2))
    return Workload(
        str(tiny_gpt2), source, RankBudget(512), epochs=1, batch_size=4, reports=1, scale=2.0,
        base=identity(str(tiny_gpt2)), splits=splits,
    )  # fmt: skip


@pytest.fixture
def elsewhere(workload, tmp_path):
    """The same workload where another model lies at the base's path."""
    other = tmp_path / "model"
    shutil.copytree(workload.model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.1}))
    return replace(workload, model=str(other))


def test_the_planned_base_loads(workload):
    assert base_of(workload).sites


def test_padding_has_an_id_that_the_embedding_has(workload):
    base = base_of(workload)
    rows = base.model.get_input_embeddings().num_embeddings
    ids = {given: replace(base, tokenizer=SimpleNamespace(pad_token_id=given)).pad_id for given in (None, 7, rows)}
    assert ids == {None: 0, 7: 7, rows: 0}


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.model", "chat_template.jinja"])
def test_another_tokenizer_makes_another_base(workload, tmp_path, name):
    shutil.copytree(workload.model, tmp_path / "model")
    before = identity(str(tmp_path / "model"))
    (tmp_path / "model" / name).write_text("a b")
    identity.cache_clear()
    assert identity(str(tmp_path / "model")) != before


def test_a_search_from_before_templates_counted_is_over_the_same_base_and_no_other(workload, tmp_path):
    model = str(shutil.copytree(workload.model, tmp_path / "model"))
    before = identity(model)
    (tmp_path / "model" / "chat_template.jinja").write_text("a")
    identity.cache_clear()
    assert in_todays_form(model, before) == identity(model) != before
    check_unchanged(model, before)
    (tmp_path / "model" / "config.json").write_text("{}")
    identity.cache_clear()
    assert in_todays_form(model, before) == before
    with pytest.raises(ValueError, match="its files have changed since the search"):
        check_unchanged(model, before)


SPEC = TrialSpec.from_config(TrialConfig("baseline", learning_rate=0.01))


@pytest.mark.parametrize(
    "start",
    [lambda work: SoloSession(work, SPEC), lambda work: Pack.of(work, 4)],
)
def test_nobody_trains_on_another_base_than_the_planned_one(elsewhere, start):
    with pytest.raises(ValueError, match=rf"--model {elsewhere.model}: this node has .*, the search was planned with"):
        start(elsewhere)


def test_carried_examples_are_used_where_their_file_is_not(workload, tmp_path):
    gone = replace(workload, data=replace(workload.data, dataset=str(tmp_path / "gone.txt")))
    assert splits_of(gone) == workload.splits
    assert Pack.of(gone, 4).splits == workload.splits

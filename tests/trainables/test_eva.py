"""EVA's components against PEFT's own, against numbers worked by hand, and in the adapters that begin as them."""

import dataclasses

import peft
import pytest
import torch
from peft.tuners.lora.eva import get_eva_state_dict
from safetensors import SafetensorError

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget, allocate
from strategies.base import Site
from strategies.eva import COMPONENTS, Eva
from strategies.measurement import Measured
from tests.reference import SoloSession
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import AllocationMismatch
from trainables.data.collate import Batch
from trainables.data.splits import IGNORED, DataSource
from trainables.engine.pack import Pack
from trainables.evidence.components import ComponentsFile, evidence_of
from trainables.evidence.input_pca import Decomposition
from trainables.evidence.kept import keep
from trainables.evidence.measurements import measure
from trainables.models.base_model import load
from trainables.models.matrices import sites_of
from trainables.spec import TrialSpec, Workload


def batch(rows=6, length=20, seed=0, learned=slice(None)):
    ids = torch.randint(1, 300, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    labels = torch.full_like(ids, IGNORED)
    labels[:, learned] = ids[:, learned]
    return Batch(ids, mask, labels.masked_fill(mask == 0, IGNORED))


def decomposed(model, *batches, rank=2):
    sites = sites_of(model)
    decomposition = Decomposition(sites, RankBudget.like_uniform(rank, sites))
    with torch.no_grad():
        for rows in batches:
            decomposition.add(model, rows)
    return decomposition


def test_a_batch_in_parts_runs_no_more_rows_in_a_pass_and_finds_about_the_same(model):
    passes = []
    model.base_model.register_forward_pre_hook(
        lambda _, arguments, given: passes.append(len(given["input_ids"])), with_kwargs=True
    )
    whole, parts = (Decomposition(sites_of(model), RankBudget.like_uniform(2, sites_of(model))) for _ in range(2))
    with torch.no_grad():
        for seed in range(3):
            whole.add(model, batch(seed=seed))
            parts.add(model, batch(seed=seed), rows=4)
    assert passes == [6, 4, 2] * 3
    ratios, others = whole.result().evidence, parts.result().evidence
    for kind, of_sites in ratios.items():
        assert others[kind] == pytest.approx(of_sites, rel=0.4), kind
    assert whole._before.keys() == parts._before.keys(), "what a batch changed is compared, not what a part did"


def test_planned_passes_are_a_part_of_what_the_components_depend_on(tiny_gpt2, tiny_text):
    data = DataSource(str(tiny_text), train_examples=8, validation_examples=4, test_examples=4, max_length=32)
    workload = Workload(str(tiny_gpt2), data, RankBudget(64), 1, 8, 1, 1.0)
    keys = {rows: ComponentsFile().key(dataclasses.replace(workload, rows_per_pass=rows), "a") for rows in (None, 2, 8)}
    assert keys[None] == keys[8] != keys[2]


def test_the_vectors_are_those_of_pefts_eva(model):
    rows = batch(learned=slice(5, None))
    components = decomposed(model, rows).result()
    targets = "|".join(site.name.replace(".", r"\.") for site in sites_of(model))
    config = peft.LoraConfig(r=6, target_modules=targets, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=1.0))
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "labels": rows.labels}
    forward = {"forward_fn": lambda model, inputs: model.base_model(**{k: inputs[k] for k in inputs if k != "labels"})}
    expected = get_eva_state_dict(model, [inputs], config, show_progress_bar=False, **forward)
    assert expected.keys() == components.tensors.keys()
    for name, vectors in expected.items():
        assert components.tensors[name].shape == vectors.shape
        # up to the sign; a random model's last components differ by little, and both decompositions are approximations
        assert torch.cosine_similarity(components.tensors[name], vectors.float())[:3].abs().min() > 0.95


def test_the_ratios_are_shares_of_the_variance_of_learned_tokens(model):
    rows = batch(learned=slice(5, None))
    components, seen = decomposed(model, rows).result(), {}
    for site in sites_of(model):
        model.get_submodule(site.name).register_forward_pre_hook(lambda _, x, name=site.name: seen.update({name: x[0]}))
    model(input_ids=rows.input_ids, attention_mask=rows.attention_mask)
    for name, tensor in seen.items():
        tokens = tensor[rows.labels != IGNORED].double()
        tokens = tokens - tokens.mean(0)
        values = torch.linalg.svdvals(tokens) ** 2
        ratios = [components.evidence[f"explained_variance/{k}"][name] for k in range(1, 7)]
        assert ratios == pytest.approx((values / values.sum())[:6].tolist(), rel=0.03)


def test_batches_add_up_and_end_once_they_turn_nothing(model):
    decomposition = decomposed(model, batch())
    assert not decomposition.converged
    for _ in range(4):
        with torch.no_grad():
            decomposition.add(model, batch())
    assert decomposition.converged
    again = decomposition.result()
    once = decomposed(model, batch()).result()
    for name in once.tensors:
        # the same tokens five times have the same components
        assert torch.cosine_similarity(again.tensors[name][:2], once.tensors[name][:2]).min() > 0.99
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def workload(model_folder, tiny_text):
    source = DataSource(
        dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=24
    )
    base = load(str(model_folder))
    plain = Workload(
        str(model_folder), source, RankBudget.like_uniform(2, base.sites), epochs=2, batch_size=4, reports=2, scale=2.0
    )
    components = measure(plain, COMPONENTS)
    return dataclasses.replace(plain, evidence=components.evidence, tensors={COMPONENTS: components.tensors})


def trial(strategy="eva", **params):
    params = {"rho": 2.0, **params} if strategy == "eva" else params
    return TrialSpec.from_config(
        TrialConfig.from_ray({"strategy": strategy, strategy: {**params, "learning_rate": 0.01}})
    )


FEW = pytest.mark.parametrize("model", ["gpt2", "llama-gqa"], indirect=True)


@FEW
def test_a_trial_begins_as_the_first_components_alone_and_in_a_pack(workload):
    session = SoloSession(workload, trial())
    slot = Pack.of(workload, 4).admit(workload, trial())
    planned = trial().allocation(slot.learner.sites, workload.budget, workload.evidence)
    assert len(set(planned.ranks.values())) > 1
    for adapter in (session.learner.adapter, slot.learner.adapter):
        assert adapter.ranks == planned.adapted
        for name, (a, b) in adapter.factors.items():
            assert torch.equal(a.detach(), workload.tensors[COMPONENTS][name][: len(a)])
            assert torch.allclose(a @ a.t(), torch.eye(len(a)), atol=1e-4)
            assert not b.any()
    session.close()


@FEW
def test_controls_of_eva_begin_as_the_components_of_the_site_that_they_are_at(workload):
    config = {"of": "eva", "rho": 2.0, "learning_rate": 0.01}
    for control in ("shuffled", "inverted"):
        spec = TrialSpec.from_config(TrialConfig.from_ray({"strategy": control, control: config}))
        adapter = peft_adapter.fresh_planned(load(workload.model), workload, spec)
        assert adapter.ranks != peft_adapter.fresh_planned(load(workload.model), workload, trial()).ranks
        vectors = workload.tensors[COMPONENTS]
        assert all(torch.equal(a.detach(), vectors[name][: len(a)]) for name, (a, _) in adapter.factors.items())


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_more_rank_than_components_is_refused(workload):
    fewer = {COMPONENTS: {name: vectors[:1] for name, vectors in workload.tensors[COMPONENTS].items()}}
    with pytest.raises(AllocationMismatch, match="1 components"):
        peft_adapter.fresh_planned(load(workload.model), dataclasses.replace(workload, tensors=fewer), trial())


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_too_few_tokens_say_what_to_raise(workload):
    source = dataclasses.replace(workload.data, train_examples=1)
    sites = load(workload.model).sites
    with pytest.raises(ValueError, match="--train-examples"):
        measure(dataclasses.replace(workload, data=source, budget=RankBudget.like_uniform(32, sites)), COMPONENTS)


def survives(components, path):
    keep(components, path, ComponentsFile())
    again = ComponentsFile().read(path)
    assert [*path.parent.iterdir()] == [path]
    assert again.evidence == components.evidence
    assert again.tensors.keys() == components.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in components.tensors.items())


@FEW
def test_what_is_measured_survives_a_file(workload, tmp_path):
    survives(measure(workload, COMPONENTS), tmp_path / "deep" / "key.safetensors")


def test_components_of_which_some_sites_have_fewer_survive_a_file(tmp_path):
    evidence = evidence_of({"a": torch.tensor([0.5, 0.25]), "b": torch.ones(1)})
    assert evidence == {"explained_variance/1": {"a": 0.5, "b": 1.0}, "explained_variance/2": {"a": 0.25}}
    survives(Measured(evidence, {"a": torch.eye(2), "b": torch.ones(1, 3)}), tmp_path / "deep" / "key.safetensors")


def test_no_byte_of_a_file_of_components_can_be_changed_unnoticed(tmp_path):
    path = tmp_path / "key.safetensors"
    ComponentsFile().write(Measured({"explained_variance/1": {"a": 0.5}}, {"a": torch.eye(2)}), path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ValueError, SafetensorError)):
            ComponentsFile().read(path)


def test_components_are_dealt_by_explained_variance_until_the_parameters_are_spent():
    sites = (Site("a", 10, 10, 0, "attention"), Site("b", 10, 30, 0, "mlp"))
    spectrum = {"a": [0.5, 0.2, 0.1, 0.05, 0.01, 0.0], "b": [0.4, 0.3, 0.15, 0.12, 0.0, 0.0]}
    evidence = {f"explained_variance/{k + 1}": {n: ratios[k] for n, ratios in spectrum.items()} for k in range(6)}
    budget = RankBudget(params=120)  # rank 2 at both; six components are three times that
    # 0.5 a, 0.4 b, 0.3 b: 100 spent; 0.2 a: 120 spent
    assert allocate(Eva(rho=3.0).scores(sites, evidence), sites, budget).ranks == {"a": 2, "b": 2}
    # 0.5 a, 0.4 b, 0.3 b, 0.2 a, 0.15 b; 0.12 b costs more than the 20 that are left, 0.1 a does not
    assert allocate(Eva(rho=3.0).scores(sites, evidence), sites, RankBudget(180)).ranks == {"a": 3, "b": 3}
    assert Eva(rho=1.0).scores(sites, evidence) == {"a": (0.5, 0.2), "b": (0.4, 0.3)}
    assert Eva(rho=1.2).scores(sites, evidence)["a"] == (0.5, 0.2, 0.1)

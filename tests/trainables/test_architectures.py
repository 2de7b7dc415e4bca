"""Architectures whose blocks are unlike most others' train in a pack as they train alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, Gemma3nTextConfig, LlamaConfig

from strategies import RankBudget
from tests.reference import SoloSession
from tests.trainables.conftest import SMALL, TOKENS
from trainables.data.splits import DataSource
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.models.matrices import block_names
from trainables.spec import TrialSpec, Workload

FOUR = SMALL | {"num_hidden_layers": 4}
CONFIGS = {
    "llama": LlamaConfig(**FOUR, num_key_value_heads=2, **TOKENS),
    # adds attention's output to the MLP's in place
    "falcon": FalconConfig(**FOUR, multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False,
                           **TOKENS),
    # blocks return tuples
    "bloom": BloomConfig(vocab_size=300, hidden_size=32, n_layer=4, n_head=4, **TOKENS),
    # four streams between blocks, numbered modules that are none, and keys and values that later blocks use again
    "gemma3n": Gemma3nTextConfig(
        **(FOUR | {"intermediate_size": [48] * 4}), num_key_value_heads=2, head_dim=8, num_kv_shared_layers=2,
        vocab_size_per_layer_input=300, hidden_size_per_layer_input=8, laurel_rank=4, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.0] * 4, **TOKENS,
    ),
}  # fmt: skip
UNSOUND = {"gemma3n"}


class FromBlock:
    """Gives rank to the blocks from one on."""

    def __init__(self, lowest):
        self.lowest = lowest

    def scores(self, sites, evidence):
        return {site.name: float(site.depth >= self.lowest) for site in sites}


@pytest.fixture(params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture
def workload(kind, tmp_path, tiny_tokenizer, tiny_text):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(tmp_path / kind)
    tiny_tokenizer.save_pretrained(tmp_path / kind)
    data = DataSource(str(tiny_text), train_examples=8, validation_examples=4, test_examples=4, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(tmp_path / kind)).sites)
    return Workload(str(tmp_path / kind), data, budget, epochs=2, batch_size=4, reports=1, scale=2.0)


def measured(session, steps):
    report = session.train(steps)
    losses = (report.train_loss, report.eval_loss, *session.test_losses())
    session.close()
    return losses


@pytest.mark.parametrize("lowest", [0, 2])
def test_a_trial_in_a_pack_trains_as_it_does_alone(kind, workload, lowest):
    spec = TrialSpec("from_block", FromBlock(lowest), learning_rate=0.01, seed=3)
    alone = measured(SoloSession(workload, spec), workload.steps)
    pack = Pack.of(workload, 2)
    packed = measured(BatchedExecutor(pack).admit(workload, spec), workload.steps)
    assert packed == pytest.approx(alone, abs=1e-4)
    assert pack.prefix.is_sound(2, pack.splits.train[:2]) is (kind not in UNSOUND)


def test_blocks_are_the_numbered_modules_with_most_sites(workload, kind):
    names = block_names(site.name for site in load(workload.model).sites)
    assert [name.rpartition(".")[2] for name in names] == ["0", "1", "2", "3"]
    assert {name.rpartition(".")[0] for name in names} <= {"model.layers", "transformer.h"}

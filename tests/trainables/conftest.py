"""Small random models of every architecture that is promised, and small trials."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from trainables.data.splits import DataSource
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, **TOKENS),
    "llama-gqa": LlamaConfig(**SMALL, num_key_value_heads=2, **TOKENS),
    "llama-tied": LlamaConfig(**SMALL, tie_word_embeddings=True, **TOKENS),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2, **TOKENS),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8, **TOKENS),
    "gpt-neox": GPTNeoXConfig(**SMALL, **TOKENS),
    "phi": PhiConfig(**SMALL, **TOKENS),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    return network.requires_grad_(False).eval()


@pytest.fixture
def model_folder(model, tmp_path, tiny_tokenizer):
    """The model saved with a tokenizer, as a user's would be."""
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def workload(tiny_gpt2, tiny_text):
    """Four steps to a report, of which there are two."""
    data = DataSource(str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=32)
    budget = RankBudget.like_uniform(2, load(str(tiny_gpt2)).sites)
    return Workload(str(tiny_gpt2), data, budget, epochs=2, batch_size=4, reports=2, scale=2.0)


OWN = {"linear_decay": {"slope": 1.0}, "adalora": {"initial": 2.0, "start": 0.0, "final": 0.3}}


@pytest.fixture(params=OWN)
def strategy(request):
    """Whose ranks stay what they are, and whose change."""
    return request.param


@pytest.fixture
def spec():
    """A function that says what a trial of one of these strategies is."""

    def make(strategy="linear_decay", **config):
        return TrialSpec.from_config(TrialConfig.from_ray({"strategy": strategy, strategy: OWN[strategy], **config}))

    return make

import math
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from tests.reference import SoloSession
from trainables.data.splits import DataSource, mean_loss
from trainables.models.base_model import load, load_tokenizer, shape_of
from trainables.models.files import BUNDLED
from trainables.spec import TrialSpec, Workload


def card(name: str) -> float:
    (value,) = re.findall(rf"^\| {re.escape(name)} \| ([\d,.]+)", (BUNDLED / "README.md").read_text(), re.MULTILINE)
    return float(value.replace(",", ""))


def test_the_bundled_base_is_deep_small_and_safe():
    assert {site.depth for site in shape_of("bundled").sites} == set(range(8))
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 6e6
    assert {path.suffix for path in BUNDLED.iterdir()} == {".safetensors", ".json", ".md"}


def test_the_card_tells_the_truth_about_size_and_order_of_perplexities():
    assert card("parameters") == shape_of("bundled").params
    assert card("held-out perplexity") < card("held-out perplexity, unigram model") / 5
    assert card("held-out perplexity, unigram model") < card("held-out perplexity, untrained model")


def test_the_tokenizer_loses_nothing():
    tokenizer, text = load_tokenizer("bundled"), "def f(x):\n\treturn 'ü→🙂'  # ok\r\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.thorough
@pytest.mark.process
def test_rank_8_lora_is_worth_it_and_an_untrained_base_is_far_worse(tmp_path):
    """Test perplexity at least 25 % below the frozen base's, or a search on it would compare noise."""
    untrained = tmp_path / "untrained"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BUNDLED)).save_pretrained(untrained)
    load_tokenizer("bundled").save_pretrained(untrained)
    frozen, tuned = perplexities("bundled")
    assert tuned < 0.75 * frozen
    _, tuned_untrained = perplexities(str(untrained))
    assert tuned_untrained > 3 * frozen


def perplexities(model: str) -> tuple[float, float]:
    """Return test perplexity before and after fine-tuning as ``tune.py`` does by default, at rank 8."""
    budget = RankBudget.like_uniform(8, load(model).sites)
    workload = Workload(model, DataSource(), budget, epochs=3, batch_size=8, reports=1, scale=2.0)
    spec = TrialSpec.from_config(TrialConfig("baseline", learning_rate=0.01))
    session = SoloSession(workload, spec)
    before = mean_loss(session.splits.test, session.test_losses())
    session.train(workload.steps)
    after = mean_loss(session.splits.test, session.test_losses())
    session.close()
    return math.exp(before), math.exp(after)

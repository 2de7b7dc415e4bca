"""Every wrong model: one line that names the file and what would be right, status 2, nothing written, no code run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from trainables.models.files import BUNDLED, INDEX, WEIGHTS

SMALL = ("--train-examples", "8", "--validation-examples", "4", "--test-examples", "4", "--max-length", "32")


class Evil:
    """What a pickle can do: call anything while it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def without_weights(folder):
    (folder / WEIGHTS).unlink()


def pickled(name):
    def change(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Evil(folder.parent / "run")))

    return change


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def emptied(folder):
    (folder / WEIGHTS).write_bytes(b"")


def indexed(text):
    def change(folder):
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(text)

    return change


def configured(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def written(name, text):
    return lambda folder: (folder / name).write_text(text)


def without_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def with_another_tokenizer(folder):
    shutil.copy(BUNDLED / "tokenizer.json", folder)


REMOTE = {"auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
MODELS = [
    (without_weights, "no weights", "save_pretrained"),
    (pickled("pytorch_model.bin"), "pytorch_model.bin is a pickle", "safetensors"),
    (pickled("model.pt"), "model.pt is a pickle", "safetensors"),
    (pickled(WEIGHTS), WEIGHTS, "save_pretrained"),
    (cut, WEIGHTS, "save_pretrained"),
    (emptied, WEIGHTS, "save_pretrained"),
    (indexed(json.dumps({"weight_map": {"a": "model-1-of-2.safetensors"}})), "names model-1-of-2", "copy it"),
    (indexed(json.dumps({"weight_map": {"a": "../x.safetensors"}})), "names ../x.safetensors", "copy it"),
    (indexed("{"), INDEX, "copy it again"),
    (indexed("[]"), INDEX, "copy it again"),
    (written("config.json", "{"), "not a valid JSON", "give a saved one"),
    (written("config.json", "[]"), "model_type", "give a saved one"),
    (configured(model_type="nope"), "nope", "give a saved one"),
    (configured(n_head=0), "zero", "give a saved one"),
    (configured(n_embd="wide"), "n_embd", "give a saved one"),
    (configured(n_layer=0), "GPT2LMHeadModel", "to adapt"),
    (configured(n_layer=3), "its weights lack transformer.h.2", "belong to its config"),
    (configured(vocab_size=10**12), "(300, 16) for (1000000000000, 16)", "belong to its config"),
    (configured(model_type="vit", architectures=["ViTModel"]), "ViTConfig", "causal language model"),
    (configured(model_type="t5", architectures=["T5ForConditionalGeneration"]), "T5Config", "causal language model"),
    (configured(model_type="bert", architectures=["BertForMaskedLM"]), "BertForMaskedLM", "ForCausalLM"),
    (configured(model_type="mine", **REMOTE), "code of its own", "an architecture that Transformers has"),
    (configured(transformers_weights="adapter_model.bin"), "adapter_model.bin", WEIGHTS),
    (configured(quantization_config={"quant_method": "gptq"}), "quantised", "made from"),
    (written("adapter_config.json", "{}"), "an adapter", "give its base"),
    (without_tokenizer, "no tokenizer", "tokenizer.json"),
    (written("tokenizer.json", "{"), "no tokenizer that loads", "add its files"),
    (with_another_tokenizer, "its embedding has 300", "belongs to the model"),
]


@pytest.mark.parametrize(("change", "culprit", "right"), MODELS)
def test_a_wrong_model_is_refused_before_anything_is_written(
    change, culprit, right, tiny_gpt2, tiny_text, tmp_path, refused
):
    model = Path(shutil.copytree(tiny_gpt2, tmp_path / "copy"))
    change(model)
    line = refused("--model", model, "--dataset", tiny_text, *SMALL, "--runs-dir", tmp_path / "runs")
    assert f"--model {model}" in line
    assert culprit in line
    assert right in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


def test_code_of_a_model_is_never_asked_about_even_at_a_terminal(tiny_gpt2, tmp_path, refused, monkeypatch):
    model = Path(shutil.copytree(tiny_gpt2, tmp_path / "copy"))
    configured(model_type="mine", **REMOTE)(model)
    (model / "mine.py").write_text("raise SystemExit('run')\n")
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert "code of its own" in refused("--model", model, "--runs-dir", tmp_path / "runs")


def test_an_encoder_that_calls_itself_causal_is_found_out(tmp_path, tiny_tokenizer):
    import torch
    from transformers import BertConfig, BertLMHeadModel

    from trainables.models.base_model import load
    from trainables.models.probes import looks_back_only

    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    for seed in range(20):  # small weights attend to little
        torch.manual_seed(seed)
        encoder = BertLMHeadModel(config).eval()
        assert not looks_back_only(encoder)
    encoder.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="see later ones"):
        load(str(tmp_path))


def test_a_model_whose_sizes_do_not_fit_each_other_is_one_line(tmp_path, tiny_tokenizer):
    from transformers import StableLmConfig, StableLmForCausalLM

    from trainables.models.base_model import load

    sizes = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = StableLmConfig(vocab_size=300, num_key_value_heads=4, **sizes)  # a quarter of 12 is odd: no rotation
    StableLmForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot compute four tokens with it \(.* tensor .*\); correct its config"):
        load(str(tmp_path))

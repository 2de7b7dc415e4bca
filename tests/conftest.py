"""Small real models and data that tests share."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


CHROMIUM_FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "install Chromium (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    from trainables.pretrain import train_tokenizer

    return train_tokenizer(["the quick brown fox jumps over the lazy dog " * 20], 300)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random GPT-2 of two blocks, saved like any model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory) -> Path:
    """Sixty different lines."""
    path = tmp_path_factory.mktemp("data") / "lines.txt"
    path.write_text("\n".join(f"the {index} quick foxes jump over {index + 1} lazy dogs" for index in range(60)))
    return path

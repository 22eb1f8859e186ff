"""The README of a trained model: its header is the hub's, its code loads the model."""

import copy
import gzip
import re
import zipfile
from pathlib import Path

import pytest
import support
from huggingface_hub import ModelCard

from dgpo import DGPOTrainer

SECRET = "a-made-up-secret"


def unzipped(path: Path) -> bytes:
    """The bytes of a file; of one that torch wrote, of what is in it."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as file:
        return b"".join(file.read(name) for name in file.namelist())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return support.make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_the_card_says_what_was_trained_and_loads_it(lora, checkpoint, tmp_path, monkeypatch):
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_completion_length": 4}
    options["peft_config"] = support.lora() if lora else None
    options |= {"credit_log_steps": 1, "hub_token": SECRET, "model_init_kwargs": {"token": SECRET}}
    monkeypatch.setenv("HF_TOKEN", SECRET)
    trainer = support.make_trainer(DGPOTrainer, checkpoint, tmp_path / "run", **options)
    trainer.train()
    text = (tmp_path / "run" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == ("peft" if lora else "transformers")
    assert card.data.tags == ["dgpo", "trl", "grpo"]
    assert card.data.base_model is None  # a folder is no name on the hub
    assert "None" not in text
    assert "Trained from `tiny`" in text
    assert "| credit rule | `dgpo(tau=0.5, kappa=1.0)` |" in text
    assert "| optimizer steps | 1 |" in text
    trainer.save_model(str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"training_args.bin", "README.md", "trainer_state.json"} <= {path.name for path in files}
    for path in files:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else unzipped(path)
        assert SECRET.encode() not in content, path
    # A copy in memory keeps what only files must not hold.
    for copied in (copy.copy(trainer.args), copy.deepcopy(trainer.args)):
        assert copied.hub_token == SECRET
        assert copied.model_init_kwargs == {"token": SECRET}
        assert copied == trainer.args
    loaded = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], loaded)
    assert type(loaded["model"]).__name__ == ("PeftModelForCausalLM" if lora else "LlamaForCausalLM")

"""A model's fingerprint: everything that decides a completion changes it, and large files are read in part only."""

import json
import os
import shutil

import pytest

from dgpo.lab.evaluation import fingerprint
from dgpo.lab.evaluation.fingerprint import model_fingerprint


@pytest.fixture
def model(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    return folder


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_every_byte_of_weights_and_configuration_counts(model):
    seen = {model_fingerprint(str(model))}
    weights = model / "model.safetensors"
    for place in (0, weights.stat().st_size // 2, -1):
        flip(weights, place)
        seen.add(model_fingerprint(str(model)))
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        flip(model / name, -2)
        seen.add(model_fingerprint(str(model)))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    seen.add(model_fingerprint(str(model)))
    assert len(seen) == 9
    before = model_fingerprint(str(model))
    (model / "README.md").write_text("hello")
    (model / "trainer_state.json").write_text("{}")
    assert model_fingerprint(str(model)) == before


def test_of_large_weights_blocks_everywhere_and_the_time_count(model, monkeypatch):
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "_BLOCK_BYTES", 16)
    weights = model / "model.safetensors"
    time = weights.stat().st_mtime_ns
    before = model_fingerprint(str(model))
    size = weights.stat().st_size
    starts = [block * (size - 16) // 63 for block in range(64)]
    assert (starts[0], starts[-1]) == (0, size - 16)
    for place in (starts[1], starts[32], size - 1):
        flip(weights, place)
        os.utime(weights, ns=(time, time))
        assert model_fingerprint(str(model)) != before
        flip(weights, place)
        os.utime(weights, ns=(time, time))
        assert model_fingerprint(str(model)) == before
    flip(weights, starts[1] + 20)  # between two blocks: only the time tells
    assert model_fingerprint(str(model)) != before


def test_an_adapter_is_nothing_without_its_model(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    seen = {model_fingerprint(str(adapter))}
    flip(model / "model.safetensors", -1)
    seen.add(model_fingerprint(str(adapter)))
    flip(adapter / "adapter_model.safetensors", -1)
    seen.add(model_fingerprint(str(adapter)))
    assert len(seen) == 3


def test_a_model_of_the_hub_is_its_commit(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    (folder / "snapshots" / "0123abc" / "config.json").write_text("{}")
    assert model_fingerprint("owner/name") == "commit 0123abc"
    assert model_fingerprint("owner/other") is None
    assert model_fingerprint("no/such/name") is None

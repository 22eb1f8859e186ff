import json

import pytest

from dgpo.lab.evaluation import loading
from dgpo.lab.evaluation.loading import load_tokenizer
from train_project import make_tokenizer

_TEXT = "<s>u: 1 + 1?</s>"


@pytest.fixture
def folder(tmp_path):
    """Makes a model folder whose tokenizer names a class."""

    def make(name, **further):
        make_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 98}))
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": name, **further}))
        return str(tmp_path)

    return make


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_a_plan_has_the_tokenizer_that_training_has(folder, name, monkeypatch):
    model = folder(name)
    trained = load_tokenizer(model)
    monkeypatch.setattr(loading, "_automatic_class", lambda: pytest.fail("it loads torch"))
    planned = load_tokenizer(model, planning=True)
    assert type(planned) is type(trained)
    for name in ("padding_side", "pad_token_id", "eos_token_id", "chat_template"):
        assert getattr(planned, name) == getattr(trained, name)
    assert planned(_TEXT) == trained(_TEXT)
    assert planned.init_kwargs == trained.init_kwargs


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "Trainer", "NoTokenizer", "../x", None, 5])
def test_a_plan_asks_transformers_where_the_class_is_not_clear(folder, name, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "_automatic_class", lambda: asked.append(1) or type(make_tokenizer()))
    load_tokenizer(folder(name), planning=True)
    assert asked == [1]

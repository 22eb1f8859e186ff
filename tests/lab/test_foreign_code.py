"""Code of others: models that bring their own, pickles, and the settings that would let them in."""

import builtins
import json
import shutil

import pytest
import torch

from dgpo.errors import ConfigError
from dgpo.lab.cli.main import main
from dgpo.lab.evaluation.loading import load_model, load_tokenizer
from dgpo.lab.evaluation.session import EvaluationRequest, evaluate_model
from dgpo.lab.foreign_code import loading_fault, refused_options
from dgpo.lab.train.preflight import read_model

REFUSED = [
    {"trust_remote_code": True},
    {"trust-remote-code": "yes"},
    {"model_init_kwargs": {"trust_remote_code": True}},
    {"model_init_kwargs": '{"trust_remote_code": true}'},
    {"model_init_kwargs": {"use_safetensors": False}},
    {"model_init_kwargs": {"allow_all_kernels": True}},
    {"model_init_kwargs": {"weights_only": False}},
    {"model_init_kwargs": {"code_revision": "main"}},
    {"model_init_kwargs": {"kernel_config": {"RMSNorm": "owner/kernel"}}},
    {"model_init_kwargs": {"attn_implementation": {"": "owner/kernel"}}},
    {"attn_implementation": "owner/kernel"},
    {"attn_implementation": "paged|owner/kernel:fn"},
    {"generation_kwargs": {"custom_generate": "owner/name"}},
    {"vllm_args": {"load_format": "PT"}},
    {"vllm_args": {"speculative_config": {"trust_remote_code": True}}},
]
ACCEPTED = [
    {"trust_remote_code": False, "attn_implementation": None},
    {"model_init_kwargs": {"use_safetensors": True, "weights_only": True, "revision": "main"}},
    {"attn_implementation": "kernels-community/flash-attn2", "vllm_args": {"load_format": "safetensors"}},
    {"attn_implementation": "sdpa", "model_init_kwargs": '{"revision": "main"}', "run_name": "{"},
]


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_settings_that_run_foreign_code_are_refused(values):
    assert len(list(refused_options(values))) == 1


@pytest.mark.parametrize("values", ACCEPTED, ids=str)
def test_other_settings_are_not(values):
    assert list(refused_options(values)) == []


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Where the code of a model would leave a mark; whoever asks about it, is told yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked whether to run code"))
    mark = tmp_path / "it-ran"
    yield mark
    assert not mark.exists()


def with_code(folder, model, mark, **config):
    """A copy of a model whose configuration names code of its own."""
    shutil.copytree(model, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]}
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "auto_map": names, **config}))
    return str(folder)


def test_code_of_a_model_that_needs_it_is_neither_run_nor_asked_about(tmp_path, tiny_model, asked):
    model = with_code(tmp_path / "evil", tiny_model, asked, model_type="evil", tokenizer_class="EvilTokenizer")
    for load in (load_model, load_tokenizer, lambda path: read_model("evil", path)):
        with pytest.raises(ConfigError, match=r"code of its own repository.*never run here") as refused:
            load(model)
        assert "trust_remote_code=True" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_model_that_transformers_implements_is_loaded_without_its_code(tmp_path, tiny_model, asked):
    model = with_code(tmp_path / "evil", tiny_model, asked)
    assert load_model(model).config.model_type == "llama"
    assert load_tokenizer(model).pad_token_id is not None


@pytest.mark.parametrize("command", ["eval", "inspect", "train"])
def test_every_command_refuses_a_model_with_code(command, tmp_path, tiny_model, asked, recipe_file, capsys):
    model = with_code(tmp_path / "evil", tiny_model, asked, model_type="evil")
    recipe = recipe_file(f"task: forks\nmodel_name_or_path: {model}\nbf16: false\noutput_dir: {tmp_path / 'run'}\n")
    words = {
        "eval": ["eval", model, "--task", "forks", "--n", "1", "--output", str(tmp_path / "run")],
        "inspect": ["inspect", model, "--reference", str(tiny_model), "--prompt", "a"],
        "train": ["train", str(recipe)],
    }
    assert main(words[command]) == 2
    error = capsys.readouterr().err
    assert "code of its own repository" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


class Evil:
    """A pickle that leaves a mark as it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def test_weights_that_are_a_pickle_are_not_read(tmp_path, tiny_model, asked):
    model = shutil.copytree(tiny_model, tmp_path / "evil")
    (model / "model.safetensors").unlink()
    torch.save({"weight": Evil(asked)}, model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="are pickles, which run code, and are not read") as refused:
        load_model(str(model))
    assert "\n" not in str(refused.value)


def test_an_adapter_that_is_a_pickle_gets_one_line(tmp_path, tiny_model, asked, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_model), "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert main(["eval", str(adapter), "--task", "forks", "--n", "1", "--output", str(tmp_path / "run")]) == 2
    assert "has no weights" in capsys.readouterr().err
    torch.save({"weight": Evil(asked)}, adapter / "adapter_model.bin")
    assert main(["eval", str(adapter), "--task", "forks", "--n", "1", "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "adapter_model.bin, a pickle" in error
    assert "weights_only" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{}"),
        ("config.json", "[]"),
        ("config.json", '{"model_type": 5}'),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": "x"}'),
        ("config.json", '{"model_type": "llama", "hidden_size": -1}'),
        ("config.json", "[" * 5000),
        ("model.safetensors", "half"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "["),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_files_of_a_model_that_are_rubbish_get_one_line(file, content, tmp_path, tiny_model):
    model = shutil.copytree(tiny_model, tmp_path / "rubbish")
    (model / file).write_text(content)
    with pytest.raises(ConfigError, match=r"cannot be loaded|no tokenizer|can be read") as refused:
        read_model("rubbish", str(model))
        load_model(str(model))
    assert "\n" not in str(refused.value)


def test_the_advice_of_a_library_to_switch_a_protection_off_is_not_passed_on():
    for text in ("Please pass `trust_remote_code=True`", "set `weights_only` to False", "contains custom code"):
        assert "=True" not in loading_fault("m", ValueError(text))
        assert "False" not in loading_fault("m", ValueError(text))
    assert loading_fault("m", KeyError("x")) == "m cannot be loaded: KeyError: 'x'"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"vllm_args": {"trust_remote_code": True}}, "vllm_args.trust_remote_code cannot be set"),
        ({"vllm_args": {"hf_token": "short"}}, "vllm_args.hf_token looks like a secret"),
        ({"reward_options": {"judge": {"api_key": "short"}}}, "reward_options.judge.api_key looks like a secret"),
        ({"task": "https://me:hunter2@host/a.jsonl"}, "task looks like a secret"),
    ],
)
def test_an_evaluation_takes_neither_code_nor_secrets(options, reason):
    request = EvaluationRequest(**{"model": "forks", "task": "forks", "backend": "transformers", **options})
    with pytest.raises(ConfigError, match=reason) as refused:
        evaluate_model(request)
    assert "short" not in str(refused.value).replace("shortly", "")
    assert "hunter2" not in str(refused.value)

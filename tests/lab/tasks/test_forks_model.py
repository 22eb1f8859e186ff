"""The small model of forks: its tokenizer, its warm-up and its cache."""

import dataclasses
import itertools
import random

import pytest
import torch

from dgpo.errors import ConfigError
from dgpo.lab.tasks import load_task
from dgpo.lab.tasks.forks import completion_roles, forks_reward, token_roles, warm_up_model
from dgpo.lab.tasks.forks import language as lang
from dgpo.lab.tasks.forks import model as forks_model
from dgpo.lab.tasks.forks.model import WarmUpConfig, build_model, build_tokenizer

FEW = {"steps": 3, "batch_size": 4, "progress": False}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_tokenizer_gives_the_ids_of_the_warm_up() -> None:
    tokenizer = build_tokenizer()
    batch = next(forks_model._batches(WarmUpConfig(batch_size=8)))
    assert batch.shape == (8, 13 + 30)  # <bos> and 4 pairs with 3 bars and "?", then the completion
    for row in batch.tolist():
        prompt = tokenizer.decode(row[1:13])
        assert prompt.endswith("?")
        assert tokenizer(text=[prompt])["input_ids"] == [row[:13]]  # as TRL calls it
        assert row[-1] == tokenizer.eos_token_id
        assert row.count(tokenizer.eos_token_id) == 1
        text = tokenizer.batch_decode([row[13:]], skip_special_tokens=True)[0]  # as TRL calls it
        assert lang.encode(text) == row[13:-1]


def test_what_trl_decodes_can_be_scored() -> None:
    tokenizer = build_tokenizer()
    forks = ((7, 3), (2, 9), (5, 6), (1, 8))
    ids = [*lang.encode(lang.demonstration(forks, 1.0, random.Random(0))), tokenizer.eos_token_id]
    padded = [*ids, tokenizer.pad_token_id, tokenizer.pad_token_id]
    text = tokenizer.batch_decode([padded], skip_special_tokens=True)
    assert forks_reward(text, [lang.answer_text(forks)]) == [1.0]


def test_the_tokenizer_pads_on_the_left_with_its_own_token() -> None:
    batch = build_tokenizer()(["7 3 ?", "7 3 | 2 9 ?"], padding=True)
    pad, bos = lang.WORD_IDS[lang.PAD], lang.WORD_IDS[lang.BOS]
    assert batch["input_ids"][0] == [pad, pad, pad, bos, *lang.encode("7 3 ?")]
    assert batch["attention_mask"][0] == [0, 0, 0, 1, 1, 1, 1]
    assert set(batch) == {"input_ids", "attention_mask"}  # no token_type_ids, which a Llama refuses


def test_a_saved_model_is_whole_and_loads_as_it_was() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = warm_up_model(num_forks=2, **FEW)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.padding_side == "left"
    prompt = "7 3 | 2 9 ?"
    assert tokenizer(prompt)["input_ids"] == [lang.WORD_IDS[lang.BOS], *lang.encode(prompt)]
    assert tokenizer.decode(lang.encode(prompt)) == prompt  # no spaces cleaned up
    assert model.num_parameters() == 108_288
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == lang.WORD_IDS[lang.EOS]
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == lang.WORD_IDS[lang.PAD]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path, monkeypatch) -> None:
    first = weights(warm_up_model(seed=1, **FEW))
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "another"))
    torch.manual_seed(123)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = weights(warm_up_model(seed=1, **FEW))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    other = weights(warm_up_model(seed=2, **FEW))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_random_states_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    warm_up_model(**FEW)
    assert (torch.rand(1), random.random()) == expected


def test_a_model_is_made_once(monkeypatch) -> None:
    folder = warm_up_model(**FEW)
    monkeypatch.setattr(forks_model, "_warmed_up", lambda *args, **kwargs: pytest.fail("made again"))
    assert warm_up_model(**FEW) == folder
    assert warm_up_model(**{**FEW, "progress": True}) == folder  # what is shown is no part of the model


def test_every_option_is_part_of_the_cache_key() -> None:
    base = WarmUpConfig()
    others = {
        "num_forks": 5,
        "correctness": 0.6,
        "seed": 1,
        "steps": 601,
        "batch_size": 65,
        "learning_rate": 1e-3,
        "hidden_size": 72,
        "num_layers": 3,
        "num_heads": 2,
    }
    assert others.keys() == {field.name for field in dataclasses.fields(base)}
    keys = {base.key()} | {dataclasses.replace(base, **{name: value}).key() for name, value in others.items()}
    assert len(keys) == 1 + len(others)


def test_the_format_is_part_of_the_cache_key(monkeypatch) -> None:
    before = WarmUpConfig().key()
    monkeypatch.setattr(forks_model, "_FORMAT", -1)
    assert WarmUpConfig().key() != before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_forks", 0),
        ("num_forks", "4"),
        ("num_forks", True),
        ("steps", 0),
        ("correctness", 1.5),
        ("correctness", float("nan")),
        ("hidden_size", 60),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_made(cache, option, value) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value!r}"):
        warm_up_model(**{option: value, "progress": False})
    assert not cache.exists()


def test_long_prompts_fit() -> None:
    assert build_model(WarmUpConfig(num_forks=20)).config.max_position_embeddings == 20 * 3 + 1 + 20 * 7 + 2


def test_the_warm_up_learns_the_form() -> None:
    """60 updates: the loss falls from ln 23 = 3.1 to well below that of a model that knows the words alone."""
    config = WarmUpConfig(num_forks=1, steps=60, batch_size=32)
    model = forks_model._warmed_up(config, progress=False)
    batch = next(forks_model._batches(dataclasses.replace(config, seed=99)))
    with torch.no_grad():
        logits = model(batch).logits[:, 3:-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 4:].flatten())
    assert loss < 1.2


def test_the_warm_up_never_meets_a_held_out_prompt() -> None:
    tokenizer = build_tokenizer()
    held_out = set(load_task("forks", num_forks=1).eval_dataset["prompt"])
    assert len(held_out) == 9
    batches = itertools.islice(forks_model._batches(WarmUpConfig(num_forks=1)), 20)
    seen = {tokenizer.decode(row[1:4]) for batch in batches for row in batch}
    assert len(seen) == 81  # all the others
    assert not seen & held_out


@pytest.mark.slow
def test_the_warmed_up_model_speaks_well_and_picks_by_chance(warmed_up) -> None:
    """The bound that the quickstart starts from: under 10 % at temperature 1, near .5 ** 4 = 6 %."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = warm_up_model(progress=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    task = load_task("forks", eval_size=512)
    batch = tokenizer(task.eval_dataset["prompt"][:], return_tensors="pt", padding=True)
    torch.manual_seed(0)
    sampled = model.generate(**batch, max_new_tokens=30, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    completions = sampled[:, batch["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    accuracy = sum(task.reward_funcs[0](completions=texts, answer=task.eval_dataset["answer"][:])) / 512
    assert 0.02 < accuracy < 0.10
    well_formed = [completion_roles(ids) == token_roles(4) for ids in completions.tolist()]
    assert sum(well_formed) / 512 > 0.95

    with torch.no_grad():
        logps = model(sampled).logits[:, batch["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)[torch.tensor(well_formed)]
    of_role = {
        role: entropy[:, [i for i, name in enumerate(token_roles(4)) if name == role]].mean().item()
        for role in ("pivot", "decoy", "copy")
    }
    # A fair coin has ln 2 = 0.693; the one to three per cent that fall on other words add about 0.1.
    assert 0.65 < of_role["pivot"] < 0.85
    picks = logps.exp()[:, 4:28:6]  # (prompts, forks, words)
    digits = batch["input_ids"][:, 1:].unflatten(1, (4, 3))[..., :2]  # x y |
    assert picks.gather(-1, digits).sum(-1)[torch.tensor(well_formed)].mean() > 0.95
    assert 1.3 < of_role["decoy"] < 1.4  # four equal words have ln 4 = 1.386
    assert of_role["copy"] < 0.1

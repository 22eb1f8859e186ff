"""What a first project consists of: an instruct model with a chat template, and a file of questions and answers."""

import json
from pathlib import Path

import pytest

from dgpo.lab.train import packages
from train_project import make_model, make_tokenizer


@pytest.fixture(scope="session")
def instruct(tmp_path_factory) -> Path:
    """An instruct model that has seen the form of an answer, a digit and the end, after its chat template alone."""
    import torch

    folder = tmp_path_factory.mktemp("models") / "instruct"
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    ask = "<s>u:{}?</s><s>a:"
    for _ in range(80):
        rows = [
            tokenizer(ask.format(int(a)) + str(int(b)) + "</s>", add_special_tokens=False)["input_ids"]
            for a, b in torch.randint(0, 10, (32, 2), generator=draw)
        ]
        ids = torch.tensor(rows)
        labels = ids.clone()
        labels[:, :-2] = -100
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path) -> Path:
    """50 pairs of a question and its answer: ten digits, five spellings of each question."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"question": f"{' ' * pad}{digit}?", "answer": str(digit)} for pad in range(5) for digit in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


RECIPE = """\
task: {task}
model_name_or_path: {model}
max_completion_length: 4
num_generations: 4
per_device_train_batch_size: 16
num_generations_eval: 1
bf16: false
gradient_checkpointing: false
save_strategy: "no"
logging_steps: 1
seed: 0
"""


@pytest.fixture
def project(tmp_path, instruct, pairs, monkeypatch):
    """A folder with a recipe, as a user's; gives the path of the recipe."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.format(task=pairs.name, model=instruct))
    return path


GOOD = {"question": "1?", "answer": "1"}
ROWS = [{"question": f"{' ' * pad}{digit}?", "answer": str(digit)} for pad in range(2) for digit in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and files as first users have them."""
    path = tmp_path_factory.mktemp("mistakes")
    tokenizer = make_tokenizer()
    for name, changes in {"model": {}, "short": {"max_position_embeddings": 12}}.items():
        make_model(tokenizer, **changes).save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
    base = make_tokenizer(chat_template=None)
    make_model(base).save_pretrained(path / "base")
    base.save_pretrained(path / "base")
    padded = make_tokenizer()
    make_model(padded).save_pretrained(path / "padded")
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded.save_pretrained(path / "padded")
    (path / "bare").mkdir()
    (path / "adapter").mkdir()
    facts = {"base_model_name_or_path": str(path / "model"), "peft_type": "LORA"}
    (path / "adapter" / "adapter_config.json").write_text(json.dumps(facts))
    files = {
        "pairs.jsonl": ROWS,
        "few.jsonl": ROWS[:3],
        "columns.jsonl": [{"text": "1?", "label": "1"}],
        "blank.jsonl": [{"question": "1?", "answer": ""}],
        "words.jsonl": [{"question": f"{i}?", "answer": "yes"} for i in range(9)],
    }
    for name, rows in files.items():
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "broken.jsonl").write_text(json.dumps(GOOD) + "\n{question: 1}\n")
    (path / "rewards.py").write_text(
        "def score(completions, answer, scale=1.0):\n    return [1.0]\n\n\n"
        "class Idle:\n    pass\n\n\n"
        "def graded(completions, grade, **columns):\n    return [1.0]\n"
    )
    (path / "semicolons.csv").write_text("question;answer\n1?;1\n")
    for name, config in {"weightless": {}, "encoder": {"model_type": "bert", "architectures": ["BertModel"]}}.items():
        tokenizer.save_pretrained(path / name)
        (path / name / "config.json").write_text(json.dumps(config))
        (path / name / ("model.safetensors" if config else "pytorch_model.bin")).touch()
    (path / "own.yaml").write_text(
        "task: pairs.jsonl\nmodel_name_or_path: model\nmax_completion_length: 4\nnum_generations: 4\nbf16: false\n"
        "per_device_train_batch_size: 16\neval_size: 2\nper_device_eval_batch_size: 4\n"
    )
    return path


@pytest.fixture
def few_packages(monkeypatch):
    """Of the packages that these mistakes name none is there, whatever this machine has."""
    installed, absent = packages._installed, {"vllm", "bitsandbytes", "flash_attn", "kernels"}
    monkeypatch.setattr(packages, "_installed", lambda *modules: not absent & set(modules) and installed(*modules))

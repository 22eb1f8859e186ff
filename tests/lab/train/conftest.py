"""What a first project consists of: an instruct model with a chat template, and a file of questions and answers."""

import json
from pathlib import Path

import pytest

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

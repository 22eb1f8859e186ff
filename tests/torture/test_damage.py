"""Every file of a run and of an evaluation, damaged in every way: what was promised happens, and nothing else."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import ALL, CHECKPOINT, chosen, dgpo, facts_of_evaluation, facts_of_run
from file_operations import KILL, After, Faults


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x80]) + data[middle + 1 :]


DAMAGES = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "flipped": lambda path: path.write_bytes(flip(path.read_bytes())),
}
RESUME = ["train", "--resume", "run"]
SHARDS = 4 if ALL else 1


@pytest.fixture(scope="module")
def stopped(small, tmp_path_factory):
    """A run that was killed after its last step, with two checkpoints; and what it must end with."""
    folder = tmp_path_factory.mktemp("damage")
    words = [*small.words["train"], "--save_total_limit=3"]
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    assert dgpo(words, whole).code == 0
    killed.mkdir()
    assert dgpo(words, killed, Faults(killed, KILL, After(CHECKPOINT.name, 2))).code == -9
    facts = facts_of_run(whole / "run") | {"summary": small.facts["train"]["summary"]}
    return SimpleNamespace(folder=killed, facts=facts, files=files_of(killed / "run"))


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def cases(files, shard, few, name):
    return chosen([(file, damage) for file in files for damage in DAMAGES], shard, SHARDS, few, name)


def damaged(stopped, sandbox, file, damage) -> Path:
    folder = sandbox()
    shutil.copytree(stopped.folder, folder, dirs_exist_ok=True)
    DAMAGES[damage](folder / "run" / file)
    return folder


def differing(stopped, folder) -> list[str]:
    facts = facts_of_run(folder / "run")
    return [name for name in facts.keys() | stopped.facts.keys() if facts.get(name) != stopped.facts.get(name)]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_file_of_the_newest_checkpoint(stopped, sandbox, shard):
    files = [file for file in stopped.files if file.startswith("checkpoint-4/")]
    assert len(files) >= 11
    for file, damage in cases(files, shard, 5, "checkpoint"):
        folder = damaged(stopped, sandbox, file, damage)
        ended = dgpo(RESUME, folder)
        assert ended.code == 0, (file, damage, ended)
        named = file.removeprefix("checkpoint-4/")
        assert f"Passing over checkpoint-4: {named}" in ended.out, (file, damage)
        assert "Resuming from run/checkpoint-2, step 2." in ended.out
        assert differing(stopped, folder) == [], (file, damage)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_another_file_of_a_run(stopped, sandbox, shard):
    files = [file for file in stopped.files if not file.startswith("checkpoint-4/")]
    older = [file for file in files if file.startswith("checkpoint-2/")]
    others = [file for file in files if file not in older]
    for file, damage in cases(others, shard, 5, "run") + cases(older, shard, 1, "older"):
        folder = damaged(stopped, sandbox, file, damage)
        ended = dgpo(RESUME, folder)
        assert "Traceback" not in ended.err
        if file == "recipe.yaml" and damage != "deleted":
            assert ended.code == 2, (damage, ended)
            assert "Delete the one that is wrong" in ended.err or "delete recipe.yaml there" in ended.err, ended.err
            (folder / "run" / file).unlink()
            ended = dgpo(RESUME, folder)
        assert ended.code == 0, (file, damage, ended)
        assert "Passing over" not in ended.out
        records = file.startswith(("completions/", "credit/"))  # of which there is no other copy
        assert differing(stopped, folder) == [file] * records, (file, damage)
        if file.startswith("completions/") and damage != "deleted":
            assert f"{file} is damaged" in ended.out
        if file == "metrics.jsonl":
            assert "metrics.jsonl was damaged" in ended.out
        report = dgpo(["report", "run"], folder)
        assert report.code == 0, (file, damage, report)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_file_of_an_evaluation(small, sandbox, shard):
    whole, expected = small.whole / "measured", small.facts["eval"]
    for file, damage in cases(files_of(whole), shard, 4, "evaluation"):
        folder = sandbox()
        for name in ("measured", "other"):
            shutil.copytree(whole, folder / name)
        DAMAGES[damage](folder / "measured" / file)
        compared = dgpo(["compare", "measured", "other"], folder)
        assert "Traceback" not in compared.err
        assert compared.code == (2 if file in ("samples.jsonl", "settings.json") else 0), (file, damage, compared)
        ended = dgpo(small.words["eval"], folder)
        assert "Traceback" not in ended.err
        lost = file == "settings.json" or (file, damage) == ("samples.jsonl", "flipped")
        if lost:
            assert ended.code == 2, (file, damage, ended)
            assert file in ended.err
            assert "damaged" in ended.err
        else:
            assert ended.code == 0, (file, damage, ended)
            assert facts_of_evaluation(folder / "measured") == expected, (file, damage)

"""Where a model comes from, and folders that are whole or absent."""

import multiprocessing
import resource
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from dgpo.errors import ConfigError, DgpoError
from dgpo.lab.models import build_once, cache_dir, resolve_model, spare_copies_of_the_head

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
    with pytest.raises(ConfigError, match="there is no such folder"):
        resolve_model(name)


def test_a_name_that_can_be_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a valid hub id"):
        resolve_model("owner/na me!")


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


class Model(nn.Module):
    def __init__(self, *, frozen):
        super().__init__()
        self.head = nn.Linear(4, 7, bias=False)
        self.head.requires_grad_(not frozen)
        self.seen = []
        multiply = self.head.forward
        self.head.forward = lambda hidden: (self.seen.append(hidden.is_contiguous()), multiply(hidden))[1]

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_head_gets_contiguous_states(frozen):
    model, hidden = Model(frozen=frozen), torch.randn(3, 5, 4)
    before = model.head(hidden[:, -1:])
    spare_copies_of_the_head(model)
    torch.testing.assert_close(model.head(hidden[:, -1:]), before)
    assert model.seen == [False, frozen]


def test_a_model_without_a_head_is_left_alone():
    spare_copies_of_the_head(type("Headless", (), {"get_output_embeddings": lambda self: None})())

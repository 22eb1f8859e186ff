"""Which checkpoint a run continues from, and which are refused."""

import io
import json
import struct
import zipfile

import pytest

from dgpo import checkpoint_files
from dgpo.checkpoint_files import PROMISE, find_checkpoints, write_checksums
from dgpo.errors import RecipeError, TrainingError
from dgpo.lab.runs import checkpoints
from dgpo.lab.train.recipe import load_recipe

BASE = "task: forks\nmodel_name_or_path: forks\n"


def safetensors(**metadata):
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 4


def archive():
    """What torch.save writes: an archive without compression."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("archive/data.pkl", b"some state")
    return file.getvalue()


def make_checkpoint(run, step, *, sums=False, **broken):
    """A folder with the files of a checkpoint: `name=None` leaves one out, `name=bytes` replaces its content.

    Without checksums it is one of an older version.
    """
    state = safetensors(dgpo=json.dumps({"layout": {"num_processes": 2}} | ({PROMISE: True} if sums else {})))
    files = {
        "model.safetensors": safetensors(),
        "dgpo_state/rank_0.safetensors": state,
        "optimizer.pt": archive(),
        "scheduler.pt": archive(),
        "rng_state.pth": archive(),
        "trainer_state.json": json.dumps({"global_step": step}).encode(),
    }
    files |= {name.replace("__", "."): content for name, content in broken.items()}
    folder = run / f"checkpoint-{step}"
    (folder / "dgpo_state").mkdir(parents=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    if sums:
        write_checksums(folder)
    return folder


def test_the_newest_by_step_not_by_name(tmp_path):
    for step in (5, 10, 9):
        make_checkpoint(tmp_path, step)
    found = find_checkpoints(tmp_path)
    assert (found.newest, found.step, found.incomplete) == (tmp_path / "checkpoint-10", 10, {})


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"trainer_state__json": None}, "trainer_state.json is missing"),
        ({"trainer_state__json": b'{"global_st'}, "trainer_state.json is damaged"),
        ({"trainer_state__json": b'{"global_step": 3}'}, "trainer_state.json is of step 3"),
        ({"model__safetensors": None}, "it holds no weights in safetensors"),
        ({"model__safetensors": b"\1\2"}, "model.safetensors is cut off"),
        ({"model__safetensors": safetensors()[:-1]}, "model.safetensors is cut off"),
        ({"dgpo_state/rank_0__safetensors": b""}, "dgpo_state/rank_0.safetensors is cut off"),
        ({"optimizer__pt": None}, "optimizer.pt is missing"),
        ({"optimizer__pt": b""}, "optimizer.pt is damaged"),
        ({"optimizer__pt": archive()[:-30]}, "optimizer.pt is damaged"),
        ({"optimizer__pt": archive().replace(b"state", b"stbte")}, "optimizer.pt is damaged"),
        ({"scheduler__pt": archive()[:20]}, "scheduler.pt is damaged"),
        ({"rng_state__pth": None}, "the state of the random number generators is missing"),
        ({"rng_state__pth": b"x"}, "rng_state.pth is damaged"),
    ],
)
def test_a_broken_one_of_an_older_version_is_passed_over_and_named(tmp_path, broken, fault):
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, **broken)
    found = find_checkpoints(tmp_path)
    assert found.step == 5
    assert found.incomplete["checkpoint-10"].startswith(fault)


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {"half": lambda data: data[: len(data) // 2], "empty": lambda data: b"", "flipped": flipped, "deleted": None}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_change_of_any_file_is_noticed(tmp_path, damage):
    make_checkpoint(tmp_path, 5, sums=True)
    folder = make_checkpoint(tmp_path, 10, sums=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) == 7  # checksums.json is one of them
    assert find_checkpoints(tmp_path).step == 10
    for file in files:
        whole = file.read_bytes()
        change = DAMAGES[damage]
        if change is None:
            file.unlink()
        else:
            file.write_bytes(change(whole))
        found = find_checkpoints(tmp_path)
        assert (found.step, list(found.incomplete)) == (5, ["checkpoint-10"]), file.name
        file.write_bytes(whole)
    assert find_checkpoints(tmp_path).step == 10
    (folder / "notes.txt").write_text("A file that was added is nobody's business.")
    assert find_checkpoints(tmp_path).step == 10


def test_a_file_is_read_once_until_it_is_written_again(tmp_path, monkeypatch):
    folder, read = make_checkpoint(tmp_path, 5, sums=True), []
    plain = checkpoint_files._sha256
    monkeypatch.setattr(checkpoint_files, "_sha256", lambda path: (read.append(path.name), plain(path))[1])
    assert [find_checkpoints(tmp_path).step for _ in range(3)] == [5] * 3
    assert len(read) == len(set(read)) == 6
    file = folder / "optimizer.pt"
    file.write_bytes(flipped(file.read_bytes()))  # of the same length
    assert list(find_checkpoints(tmp_path).incomplete) == ["checkpoint-5"]
    assert read[6:] == ["optimizer.pt"]


def test_a_message_compares_lengths_alone(tmp_path):
    folder = make_checkpoint(tmp_path, 5, sums=True)
    file = folder / "optimizer.pt"
    file.write_bytes(flipped(file.read_bytes()))
    assert find_checkpoints(tmp_path).newest is None
    assert find_checkpoints(tmp_path, quick=True).step == 5


def test_weights_alone_will_do_where_they_are_asked_for(tmp_path):
    make_checkpoint(tmp_path, 5, optimizer__pt=None, rng_state__pth=None, scheduler__pt=None)
    assert find_checkpoints(tmp_path).newest is None
    assert find_checkpoints(tmp_path, weights_alone=True).step == 5


def test_without_a_complete_one_the_broken_ones_are_listed(tmp_path):
    make_checkpoint(tmp_path, 5, trainer_state__json=None)
    with pytest.raises(TrainingError, match=r"checkpoint-5: trainer_state\.json is missing"):
        checkpoints.newest_checkpoint(tmp_path)


def test_another_number_of_processes_is_refused_with_a_command_that_fits(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    checkpoints.refuse_other_processes(folder, 2)
    with pytest.raises(
        RecipeError, match=r"by 2 processes, and there is 1 now.*torchrun --nproc-per-node 2 -m .* train"
    ):
        checkpoints.refuse_other_processes(folder, 1)


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="There is no run directory"):
        checkpoints.refuse_without_recipe(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"it has no recipe\.yaml"):
        checkpoints.refuse_without_recipe(tmp_path)


def test_another_recipe_is_refused_field_by_field(tmp_path, recipe_file, schema):
    stored = load_recipe(recipe_file(BASE + "inert_warning_steps: 50\nlearning_rate: 1e-4\n"), [], schema)
    path = recipe_file(BASE + "learning_rate: 2e-4\nmax_steps: 9\nsave_steps: 3\nseed: 7\n")
    current = load_recipe(path, [], schema).everything()
    with pytest.raises(RecipeError) as caught:
        checkpoints.refuse_other_recipe(stored.everything(), current, tmp_path)
    assert sorted(str(caught.value).splitlines()[1:-1]) == [
        "  - learning_rate: 0.0001 in the checkpoint's recipe, 0.0002 now",
        "  - seed: 42 in the checkpoint's recipe, 7 now",
    ]


def test_a_longer_run_of_the_same_recipe_is_accepted(tmp_path, recipe_file, schema):
    stored = load_recipe(recipe_file(BASE + "max_steps: 5\n"), [], schema)
    harmless = ["--max_steps=9", "--save_steps=2", "--logging_steps=1", "--save_total_limit=3", "--report_to=none"]
    recipe = load_recipe(recipe_file(BASE), harmless, schema)
    checkpoints.refuse_other_recipe(stored.everything(), recipe.everything(), tmp_path)


def test_fields_that_may_change_exist(schema):
    assert set(schema) >= checkpoints.MAY_CHANGE

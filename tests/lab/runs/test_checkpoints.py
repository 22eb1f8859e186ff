"""Which checkpoint a run continues from, and which are refused."""

import json
import struct

import pytest

from dgpo.errors import RecipeError, TrainingError
from dgpo.lab.runs import checkpoints
from dgpo.lab.train.recipe import load_recipe

BASE = "task: forks\nmodel_name_or_path: forks\n"


def make_checkpoint(run, step, **broken):
    """A folder with the files of a checkpoint: `name=None` leaves one out, `name=bytes` replaces its content."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    files = {
        "model.safetensors": struct.pack("<Q", len(header)) + header + b"\0" * 4,
        "optimizer.pt": b"x",
        "scheduler.pt": b"x",
        "rng_state.pth": b"x",
        "trainer_state.json": json.dumps({"global_step": step}).encode(),
    }
    files |= {name.replace("__", "."): content for name, content in broken.items()}
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def test_the_newest_by_step_not_by_name(tmp_path):
    for step in (5, 10, 9):
        make_checkpoint(tmp_path, step)
    found = checkpoints.find_checkpoints(tmp_path)
    assert (found.newest, found.step, found.incomplete) == (tmp_path / "checkpoint-10", 10, {})


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"trainer_state__json": None}, "trainer_state.json is missing"),
        ({"trainer_state__json": b'{"global_st'}, "trainer_state.json is cut off"),
        ({"trainer_state__json": b'{"global_step": 3}'}, "trainer_state.json is of step 3"),
        ({"model__safetensors": None}, "it holds no weights in safetensors"),
        ({"model__safetensors": b"\1\2"}, "model.safetensors is cut off"),
        ({"optimizer__pt": None}, "optimizer.pt is missing"),
        ({"rng_state__pth": None}, "the state of the random number generators is missing"),
    ],
)
def test_a_broken_one_is_passed_over_and_named(tmp_path, broken, fault):
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, **broken)
    found = checkpoints.find_checkpoints(tmp_path)
    assert found.step == 5
    assert found.incomplete["checkpoint-10"].startswith(fault)


def test_weights_that_end_early_are_noticed(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert checkpoints.checkpoint_fault(folder, 5) == "model.safetensors is cut off"


def test_without_a_complete_one_the_broken_ones_are_listed(tmp_path):
    make_checkpoint(tmp_path, 5, trainer_state__json=None)
    with pytest.raises(TrainingError, match=r"checkpoint-5: trainer_state\.json is missing"):
        checkpoints.newest_checkpoint(tmp_path)


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="There is no run directory"):
        checkpoints.refuse_without_recipe(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"it has no recipe\.yaml"):
        checkpoints.refuse_without_recipe(tmp_path)


def test_another_recipe_is_refused_field_by_field(tmp_path, recipe_file, schema):
    (tmp_path / "environment.json").write_text(json.dumps({"num_processes": 1}))
    stored = load_recipe(recipe_file(BASE + "tau: 0.5\nlearning_rate: 1e-4\n"), [], schema)
    path = recipe_file(BASE + "learning_rate: 2e-4\nmax_steps: 9\nsave_steps: 3\nseed: 7\n")
    current = load_recipe(path, [], schema).everything()
    with pytest.raises(RecipeError) as caught:
        checkpoints.refuse_other_recipe(stored.everything(), current, tmp_path, num_processes=2)
    assert sorted(str(caught.value).splitlines()[1:-1]) == [
        "  - learning_rate: 0.0001 in the checkpoint's recipe, 0.0002 now",
        "  - number of processes: 1 at the start, 2 now",
        "  - seed: 42 in the checkpoint's recipe, 7 now",
    ]


def test_a_longer_run_of_the_same_recipe_is_accepted(tmp_path, recipe_file, schema):
    stored = load_recipe(recipe_file(BASE + "max_steps: 5\n"), [], schema)
    harmless = ["--max_steps=9", "--save_steps=2", "--logging_steps=1", "--save_total_limit=3", "--report_to=none"]
    recipe = load_recipe(recipe_file(BASE), harmless, schema)
    checkpoints.refuse_other_recipe(stored.everything(), recipe.everything(), tmp_path, num_processes=1)


def test_fields_that_may_change_exist(schema):
    assert set(schema) >= checkpoints.MAY_CHANGE

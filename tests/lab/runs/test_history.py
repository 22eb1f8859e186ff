"""Metrics up to a checkpoint: whatever happened to the file, the lines are those that were logged."""

import json

import pytest

from dgpo.lab.runs.directory import RunDirectory
from dgpo.lab.runs.history import history_of, restored

BEFORE = {"step": 0, "phase": "before", "wall_seconds": 0.0, "eval_reward": 0.25}
LINES = [BEFORE, *({"step": s, "phase": "train", "wall_seconds": s / 2, "loss": s / 8, "kl": None} for s in (1, 2, 3))]


def written(run, text):
    run.path.mkdir(exist_ok=True)
    run.metrics_path.write_bytes(text)
    return run


def text_of(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


WHOLE = text_of(LINES)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (WHOLE, None),
        (WHOLE + b'{"step": 4, "los', None),  # after the checkpoint: made again
        (WHOLE + text_of([{"step": 4, "phase": "train", "loss": 1}]), None),
        (WHOLE[:-9], "1 of its 4 lines restored from the checkpoint"),
        (b"", "4 of its 4 lines restored"),
        (WHOLE[: len(WHOLE) // 2], "2 of its 4 lines restored"),
        (WHOLE + text_of(LINES[-1:]), "1 left out that stood twice"),
        (WHOLE + WHOLE, "4 left out that stood twice"),
        (WHOLE.replace(b"0.125", b"0.175"), "1 of its 4 lines restored from the checkpoint, 1 left out"),
        (WHOLE.replace(b'"loss": 0.25', b'"los\xff": 0.25'), "1 of its 4 lines restored"),
        (WHOLE.replace(b"train", b"train\xff"), "3 of its 4 lines restored"),
        (WHOLE.replace(b'"wall_seconds": 1.0', b'"wall_seconds": "soon"'), "1 of its 4 lines restored"),
        (b"[1, 2]\n" + WHOLE, None),
    ],
)
def test_the_lines_are_those_that_were_logged(tmp_path, text, note):
    run = written(RunDirectory(tmp_path / "run"), text)
    notes = run.cut_to(3, LINES)
    assert run.read_metrics() == LINES
    assert len(run.metrics_path.read_bytes().splitlines()) == 4
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_a_file_that_is_gone_is_made_again(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.cut_to(2, LINES) == ["metrics.jsonl was damaged: 3 of its 3 lines restored from the checkpoint."]
    assert run.read_metrics() == LINES[:3]


def test_the_history_of_an_older_version_lacks_phases_and_times():
    history = [{"step": s, "loss": s / 8, "kl": float("nan")} for s in (1, 2, 3)]
    state = [{"step": line["step"], "loss": line["loss"], "kl": None} for line in history]
    assert restored(LINES, state, 3) == (LINES, "")  # nothing is taken away
    lines, note = restored(LINES[:2], state, 3)
    assert lines == [*LINES[:2], *({"step": s, "phase": "train", "loss": s / 8, "kl": None} for s in (2, 3))]
    assert "2 of its 3 lines restored" in note
    assert restored([], [], 3) == ([], "")


def test_what_was_counted_since_the_last_log_stays(tmp_path):
    counted = {"step": 3, "phase": "train", "wall_seconds": 1.6, "differing_groups": 0.5}
    assert restored([*LINES, counted], LINES, 3) == ([*LINES, counted], "")


def test_the_history_is_read_from_the_state_of_the_trainer(tmp_path):
    (tmp_path / "trainer_state.json").write_text(
        '{"log_history": [{"step": 1, "loss": NaN}, {"step": 1, "train_runtime": 3.0}, 5, {"step": "x"}]}'
    )
    assert history_of(tmp_path) == [{"step": 1, "loss": None}]
    assert history_of(tmp_path / "none") == []


@pytest.mark.parametrize("data", [b'{"step": 1}\n{"ste', b"", b'{"step": 1}\n\xff\xfe\n', b'{"step": 1}\n[1]\n'])
def test_a_damaged_file_of_completions_is_named(tmp_path, data):
    run = written(RunDirectory(tmp_path), WHOLE)
    run.write_completions(1, [{"step": 1, "completion": "x"}])
    run.write_completions(2, [{"step": 2, "completion": "x"}])
    (tmp_path / "completions" / "step-000002.jsonl").write_bytes(data)
    assert run.cut_to(3, LINES) == ["completions/step-000002.jsonl is damaged: 1 of its lines cannot be read."]


def test_completions_that_were_cut_at_the_end_of_a_line_are_named(tmp_path):
    run = written(RunDirectory(tmp_path), WHOLE)
    for step in (1, 2):
        run.write_completions(step, [{"step": step, "completion": str(number)} for number in range(4)])
    assert run.cut_to(3, LINES, rollout=4) == []
    file = tmp_path / "completions" / "step-000002.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert run.cut_to(3, LINES, rollout=4) == [
        "completions/step-000002.jsonl is damaged: 2 of its lines cannot be read."
    ]

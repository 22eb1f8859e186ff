"""A training that reports to W&B, Trackio and TensorBoard, the packages themselves: each has the logged completions."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
from support import FixedDGPOTrainer, make_trainer

from dgpo.credit_log import read_credit_log
from process_groups import run_forked


def train(checkpoint: str, folder: Path) -> None:
    """In a process of its own: trackers keep threads, files and one run a process."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "TRACKIO_DIR": str(folder / "trackio")}
    os.chdir(folder)
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from trackio.sqlite_storage import SQLiteStorage

    options = {"report_to": ["wandb", "trackio", "tensorboard"], "project": "dgpo"}
    options |= {"credit_log_steps": 2, "max_steps": 2, "perturb": 0.3, "tau": 0.02}
    trainer = make_trainer(FixedDGPOTrainer, checkpoint, folder / "run", **options)
    trainer.train()
    wandb.finish()
    files = folder.glob("wandb/offline-run-*/files/media/table/dgpo/*.json")
    boards = [EventAccumulator(str(file)).Reload() for file in folder.rglob("events.out.tfevents.*")]
    texts = [text for board in boards if board.Tags()["tensors"] for text in board.Tensors("dgpo/credit/text_summary")]
    logs = [line for run in SQLiteStorage.get_runs("dgpo") for line in SQLiteStorage.get_logs("dgpo", run)]
    found = {
        "wandb": [json.loads(file.read_text()) for file in sorted(files, key=lambda file: file.stat().st_mtime)],
        "trackio": [line["dgpo/credit"]["_value"] for line in logs if "dgpo/credit" in line],
        "tensorboard": [text.tensor_proto.string_val[0].decode() for text in texts],
    }
    (folder / "found.json").write_text(json.dumps(found))


def test_each_has_the_logged_completions(checkpoint, tmp_path):
    for name in ("wandb", "trackio", "tensorboard"):
        pytest.importorskip(name)
    run_forked(partial(train, checkpoint, tmp_path), ranks=None)
    found = json.loads((tmp_path / "found.json").read_text())
    steps = read_credit_log(tmp_path / "run")
    assert [step.step for step in steps] == [1, 2]
    tables = {
        "wandb": [[dict(zip(one["columns"], row, strict=True)) for row in one["data"]] for one in found["wandb"]],
        "trackio": found["trackio"],
    }
    for name, rows_of_steps in tables.items():
        for step, rows in zip(steps, rows_of_steps, strict=True):
            logged = {"".join(c.tokens): c for c in step.completions}
            assert {row["completion"] for row in rows} == set(logged), name
            for row in rows:
                completion = logged[row["completion"]]
                assert row["step"] == step.step
                assert row["reward"] == pytest.approx(completion.reward, rel=1e-4)
                assert row["weight_max"] == pytest.approx(max(completion.w), rel=1e-4)
    assert [text.count("\n") - 1 for text in found["tensorboard"]] == [len(step.completions) for step in steps]

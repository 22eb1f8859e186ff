"""A training that reports to W&B, Trackio and TensorBoard, the packages themselves: each has the logged completions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgpo.credit_log import read_credit_log

SCRIPT = """
import json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from support import FixedDGPOTrainer, make_trainer

import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage

checkpoint, folder = sys.argv[2], Path(sys.argv[3])
trackers = ["wandb", "trackio", "tensorboard"]
options = {"report_to": trackers, "project": "dgpo", "credit_log_steps": 2, "max_steps": 2, "perturb": 0.3, "tau": 0.02}
trainer = make_trainer(FixedDGPOTrainer, checkpoint, folder / "run", **options)
trainer.train()
wandb.finish()
files = sorted(folder.glob("wandb/offline-run-*/files/media/table/dgpo/*.json"), key=lambda file: file.stat().st_mtime)
boards = [EventAccumulator(str(file)).Reload() for file in folder.rglob("events.out.tfevents.*")]
texts = [text for board in boards if board.Tags()["tensors"] for text in board.Tensors("dgpo/credit/text_summary")]
logs = [line for run in SQLiteStorage.get_runs("dgpo") for line in SQLiteStorage.get_logs("dgpo", run)]
found = {
    "wandb": [json.loads(file.read_text()) for file in files],
    "trackio": [line["dgpo/credit"]["_value"] for line in logs if "dgpo/credit" in line],
    "tensorboard": [text.tensor_proto.string_val[0].decode() for text in texts],
}
(folder / "found.json").write_text(json.dumps(found))
"""


def test_each_has_the_logged_completions(checkpoint, tmp_path):
    for name in ("wandb", "trackio", "tensorboard"):
        pytest.importorskip(name)
    here = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent), checkpoint, str(tmp_path)]
    done = subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
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

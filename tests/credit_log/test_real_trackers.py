"""The table in the trackers themselves: W&B offline, Trackio's local database, TensorBoard's event files."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from dgpo.credit_log import trackers


@pytest.fixture
def group(completion):
    """Two prompts, whose completions do not lie side by side in the log."""
    facts = [(1, "42", 1.0), (2, None, 0.0), (1, "42", -1.0)]
    return [
        completion(
            "so", f"</td>{n}|", group=group, answer=answer, hint=answer and "is 42", advantage=advantage, ended="eos"
        )
        for n, (group, answer, advantage) in enumerate(facts)
    ]


TEXTS = ["so</td>0|", "so</td>2|", "so</td>1|"]


def test_wandb_takes_the_table(group, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="dgpo", mode="offline", dir=tmp_path, settings=wandb.Settings(x_disable_stats=True)):
        trackers.send_tables(7, group, trackers=("wandb",))
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/dgpo/*.table.json")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["completion"] for row in rows] == TEXTS
    assert [row["answer"] for row in rows] == ["42", "42", None]
    assert [row["hint"] for row in rows] == ["is 42", "is 42", None]
    assert [row["advantage"] for row in rows] == [1.0, -1.0, 0.0]


def test_wandb_without_a_run_is_left_alone(group):
    wandb = pytest.importorskip("wandb")
    assert wandb.run is None
    trackers.send_tables(7, group, trackers=("wandb",))


TRACKIO = """
import json, pickle, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
from dgpo.credit_log import trackers

trackio.init(project="dgpo", name="one", auto_log_gpu=False)
trackers.send_tables(7, pickle.load(sys.stdin.buffer), trackers=("trackio",))
trackio.finish()
print("\\n" + json.dumps(SQLiteStorage.get_logs("dgpo", "one"), default=str))
"""


def test_trackio_takes_the_table(group, tmp_path):
    """In a process of its own: Trackio takes its folder from the environment when it is imported."""
    pytest.importorskip("trackio")
    here = {**os.environ, "TRACKIO_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", TRACKIO]
    done = subprocess.run(command, input=pickle.dumps(group), capture_output=True, env=here, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    logs = json.loads(done.stdout.decode().splitlines()[-1])
    (line,) = [line for line in logs if "dgpo/credit" in line]
    rows = line["dgpo/credit"]["_value"]
    assert line["train/global_step"] == 7
    assert [row["completion"] for row in rows] == TEXTS
    assert [row["answer"] for row in rows] == ["42", "42", None]
    assert [row["hint"] for row in rows] == ["is 42", "is 42", None]


def test_tensorboard_takes_the_table(group, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as board:
        trackers.send_tables(7, group, trackers=(), boards=[board])
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    (table,) = events.Tensors("dgpo/credit/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert table.step == 7
    assert text.count("\n") == 1 + len(group)
    assert "<" not in text
    (histogram,) = events.Histograms("dgpo/weights")
    assert histogram.histogram_value.num == 6

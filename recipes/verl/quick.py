"""The forks task for quick.yaml: `python quick.py FOLDER` makes model and prompts; verl calls `compute_score`."""

import sys
from pathlib import Path
from typing import Any

from dgpo.lab.tasks.forks import forks_reward

TRAINING, HELD_OUT = 512, 16


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **more: Any) -> dict:
    """Return 1 for a completion whose decisions are all right, in the form verl's reward managers want."""
    score = forks_reward([solution_str], [ground_truth])[0] or 0.0
    return {"score": score, "acc": score == 1.0}


def prepare(folder: Path) -> Path:
    """Write the prompts of both splits in verl's columns, and return the warmed-up model's folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dgpo.lab.tasks import load_task
    from dgpo.lab.tasks.forks import warm_up_model

    task = load_task("forks", eval_size=HELD_OUT, size=TRAINING)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("train", task.train_dataset), ("held-out", task.eval_dataset)):
        rows = [
            {
                "data_source": "forks",
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "ability": "forks",
                "reward_model": {"style": "rule", "ground_truth": row["answer"]},
                "extra_info": {"index": str(index)},
            }
            for index, row in enumerate(data)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"forks-{name}.parquet")
    return warm_up_model()


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1])))

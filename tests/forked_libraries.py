"""Loaded once by the process from which the tests fork their children (`forked.py`): what takes seconds to load."""

import gc
import importlib
import threading

import torch

import shape_checks

shape_checks.install()
torch.set_num_threads(1)
for name in ("engines.trl.trainer", "lab.cli.main", "lab.evaluation.run", "lab.train.train"):
    importlib.import_module(f"dgpo.{name}")
assert threading.active_count() == 1, f"{threading.enumerate()}: a fork would leave their locks behind, perhaps closed"
gc.collect()
gc.freeze()

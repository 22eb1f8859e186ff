"""Ranks do not matter, and a killed run resumes to the same parameters, bit for bit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from worker import (
    DEAD_CASES,
    HINDSIGHT_CASES,
    RANK_CASES,
    RESUME_CASES,
    SHARDED_CASES,
    WATCHED_CASES,
    train_ranks,
    train_resume,
    train_sharded,
    train_watched,
)

from dgpo.credit_log import read_credit_log
from dgpo.versions import release_of
from made_once import made_once
from process_groups import run_forked


def run(train: Callable[[Path, str, int], None], factory, checkpoint: str, *world_sizes: int) -> Path:
    """Train in a forked process, which forks the ranks; return the folder of the results."""

    def make(folder: Path) -> Path:
        for world_size in world_sizes:
            run_forked(partial(train, folder, checkpoint, world_size), ranks=None)
        return folder

    return made_once(factory, f"{train.__name__}-{'-'.join(map(str, world_sizes))}", make)


@pytest.fixture(scope="module")
def ranks(checkpoint, tmp_path_factory):
    folder = run(train_ranks, tmp_path_factory, checkpoint, 1, 2)
    return [torch.load(folder / f"ranks_{world_size}.pt", weights_only=False) for world_size in (1, 2)]


@pytest.mark.parametrize("case", RANK_CASES)
def test_two_ranks_give_the_gradients_of_one(ranks, case):
    one, two = (results[case][0] for results in ranks)
    assert len(one) == 3
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert (a - b).norm() <= 3e-6 * a.norm(), f"update {step}"


@pytest.mark.parametrize("world_size", [1, 2])
def test_sorting_by_length_leaves_the_gradients_as_they_are(ranks, world_size):
    ours, plain = (ranks[world_size - 1][case][0] for case in ("sorted", "dapo-2-full-current"))
    for step, (a, b) in enumerate(zip(ours, plain, strict=True)):
        assert (a - b).norm() <= 3e-6 * b.norm(), f"update {step}"
    assert not all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))  # sums in another order


@pytest.mark.parametrize("case", RANK_CASES)
def test_two_ranks_log_the_metrics_of_one(ranks, case):
    one, two = (results[case][1] for results in ranks)
    compared = 0
    names = ["loss", "kl", "reward", "reward_std", "grad_norm"]
    if RANK_CASES[case][1] == 1:
        names.append("entropy")  # over several micro-batches TRL's is a mean of means, and each rank shuffles its own
    for a, b in zip(one, two, strict=True):
        for name in a:
            if name == "entropy" and "dgpo/weight/std" not in a:
                continue  # nothing lives: each rank has scored another completion
            if name.startswith("dgpo/") or name in names:
                assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-7), name
                compared += 1
    shown = "dgpo/hint/share" if case in HINDSIGHT_CASES else "dgpo/weight/std"
    credited = [entry for entry in one if shown in entry]  # steps with a live completion
    assert len(credited) == len(one) or case in DEAD_CASES
    assert compared >= 12 * len(credited) >= 24


@pytest.fixture(scope="module")
def sharded(checkpoint, tmp_path_factory):
    folder = run(train_sharded, tmp_path_factory, checkpoint, 1, 2)
    return [torch.load(folder / f"sharded_{world_size}.pt", weights_only=False) for world_size in (1, 2)]


@pytest.mark.parametrize("case", SHARDED_CASES)
def test_a_model_sharded_by_fsdp2_gives_the_gradients_of_one_process(sharded, case):
    (one, metrics_of_one), (two, metrics_of_two) = (results[case] for results in sharded)
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert (a - b).norm() <= 3e-6 * a.norm(), f"update {step}"
    for a, b in zip(metrics_of_one, metrics_of_two, strict=True):
        for name in (name for name in a if name.startswith("dgpo/")):
            # A weight is a float32 number near 1, where the next one is 1.2e-7 away: its distance from 1 (6.6e-4 here)
            # is known to no more than that.
            spacing = torch.finfo(torch.float32).eps if name.startswith("dgpo/weight/") else 1e-8
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=spacing), name


@pytest.fixture(scope="module")
def watched(checkpoint, tmp_path_factory):
    folder = run(train_watched, tmp_path_factory, checkpoint, 1, 2)
    return folder, torch.load(folder / "watched_2.pt", weights_only=False)


@pytest.mark.parametrize("case", WATCHED_CASES)
def test_watching_changes_no_bit_on_two_processes(watched, case):
    _, results = watched
    without, with_watch = results[case, False], results[case, True]
    assert len(without) == 3
    assert all(torch.equal(a, b) for a, b in zip(without, with_watch, strict=True))


@pytest.mark.parametrize("case", WATCHED_CASES)
def test_two_processes_log_what_one_logs(watched, case):
    """The main process's own completions: its groups are those that one process samples first."""
    folder, _ = watched
    logs = [read_credit_log(folder / f"{case.replace(' ', '_')}-{size}-True") for size in (1, 2)]
    assert [[step.step for step in log] for log in logs] == [[1, 2, 3]] * 2
    for one, two in zip(*logs, strict=True):
        completions = {(found.prompt, tuple(found.ids)): found for found in one.completions}
        assert len(two.completions) == 4
        for found in two.completions:
            same = completions[found.prompt, tuple(found.ids)]
            for name in ("d", "h", "s", "logp", "log_ratio", "w"):
                ours, theirs = getattr(found, name), getattr(same, name)
                assert [x is None for x in ours] == [x is None for x in theirs]
                if None not in ours:
                    assert ours == pytest.approx(theirs, rel=1e-3, abs=2e-5), name
    has_reference = not case.endswith("none")
    assert any(x is not None for step in logs[1] for found in step.completions for x in found.d) == has_reference


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def resumed(request, checkpoint, tmp_path_factory):
    if request.param == 2 and release_of(transformers.__version__, 2) < (5, 18):
        pytest.skip("transformers before 5.18 cannot resume on several processes of a CPU, and a run is refused")
    folder = run(train_resume, tmp_path_factory, checkpoint, request.param)
    return [torch.load(folder / f"{kind}_{request.param}.pt") for kind in ("whole", "resumed")]


@pytest.mark.parametrize("case", RESUME_CASES)
def test_a_killed_run_resumes_to_the_same_parameters_bit_for_bit(resumed, case):
    whole, continued = resumed
    assert torch.equal(whole[case], continued[case])

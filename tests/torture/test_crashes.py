"""A kill, Ctrl-C or a full disk at the n-th file operation: the run goes on as if nothing had happened.

`make torture` takes every operation, the suite a few; TORTURE_SEED draws others.
"""

import pytest
from commands import ALL, check_message, chosen, continue_training, dgpo, facts_of_evaluation, facts_of_run
from file_operations import FULL, INTERRUPT, KILL, Faults

SHARDS = 12 if ALL else 2


def after(case, kind, at, ended) -> None:
    """What holds as soon as a command has ended."""
    if kind == KILL:
        assert ended.code == -9, (case, ended)
    else:
        check_message(ended, kind)


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize(("kind", "few"), [(KILL, 8), (INTERRUPT, 3), (FULL, 3)])
def test_training_ends_as_if_nothing_had_happened(small, sandbox, kind, few, shard):
    words = small.words["train"]
    for at in chosen(range(1, small.counts["train"] + 1), shard, SHARDS, few, f"train {kind}"):
        folder = sandbox()
        ended = dgpo(words, folder, Faults(folder, kind, at))
        after(f"train {kind} at {at}", kind, at, ended)
        how = continue_training(words, folder)
        differing = [
            name for name, value in facts_of_run(folder / "run").items() if small.facts["train"][name] != value
        ]
        assert not differing, f"{kind} at file operation {at}, then {how}"


@pytest.mark.parametrize("shard", range(SHARDS if ALL else 1))
@pytest.mark.parametrize(("kind", "few"), [(KILL, 4), (INTERRUPT, 2), (FULL, 2)])
def test_evaluation_ends_as_if_nothing_had_happened(small, sandbox, kind, few, shard):
    words = small.words["eval"]
    for at in chosen(range(1, small.counts["eval"] + 1), shard, SHARDS if ALL else 1, few, f"eval {kind}"):
        folder = sandbox()
        ended = dgpo(words, folder, Faults(folder, kind, at))
        after(f"eval {kind} at {at}", kind, at, ended)
        again = dgpo(words, folder)
        assert again.code == 0, (at, again)
        assert facts_of_evaluation(folder / "measured") == small.facts["eval"], f"{kind} at file operation {at}"

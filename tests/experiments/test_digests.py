"""What the name of a cell's file says of the code: another rule is another cell, another comment is not."""

import functools

import pytest

from experiments import digests
from experiments.credit import cells, rules, stacks, warm_up
from experiments.credit.oracles import CreditArm
from experiments.credit.rules import ARMS
from experiments.digests import digest, digest_of_files
from experiments.gradient_stability import training as stability
from experiments.hindsight import cells as hindsight
from experiments.smollm2 import training as smollm2

FACTOR = 2


def helper(x):
    return x + 1


def uses_helper(x):
    return helper(x) * FACTOR


def scaled(factor, *, offset=0):
    return lambda x: factor * x + offset


def test_every_rule_has_a_digest_of_its_own():
    digests_of_arms = [arm.digest() for arm in ARMS.values()]
    assert len(set(digests_of_arms)) == len(ARMS)
    assert digests_of_arms == [arm.digest() for arm in ARMS.values()]


def test_what_a_function_holds_and_calls_is_part_of_it(monkeypatch):
    assert digest(scaled(2)) == digest(scaled(2))
    assert len({digest(scaled(2)), digest(scaled(3)), digest(scaled(2, offset=1))}) == 3
    assert digest(functools.partial(helper, 1)) != digest(functools.partial(helper, 2))
    before = digest(uses_helper)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert digest(uses_helper) != before
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "helper", lambda x: x - 1)
    assert digest(uses_helper) != before


def test_comments_docstrings_and_layout_do_not_count(tmp_path):
    texts = {
        "one": 'def f(x):\n    """Return twice x."""\n    return 2 * x\n',
        "same": "# a comment\ndef f(x):\n    return (2 *\n            x)\n",
        "other": "def f(x):\n    return 3 * x\n",
    }
    by_name = {}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text(text)
        by_name[name] = digest_of_files(("file.py",), tmp_path / name)
    assert by_name["one"] == by_name["same"] != by_name["other"]
    with pytest.raises(FileNotFoundError):
        digest_of_files(("gone.py",), tmp_path)


def test_a_rule_that_was_changed_is_another_cell(monkeypatch):
    cell = next(cell for cell in cells.planned([0], reduced=False) if cell.rule == "dgpo tau=.1")
    before = cells.settings(cell)
    tau = {"tau": 0.1}
    for changed in (
        CreditArm("dgpo", {"tau": 0.2}),
        CreditArm("dgpo", tau, beta=0.04),
        CreditArm("dgpo", tau, refresh_every=3),
        CreditArm("dgpo", tau, reference_steps=3),
        CreditArm("inverse", tau),
    ):
        monkeypatch.setitem(rules.ARMS, cell.rule, changed)
        assert cells.settings(cell)["rule"] != before["rule"]
    monkeypatch.undo()
    assert cells.settings(cell) == before


@pytest.mark.parametrize("files", [cells.CODE, hindsight.CODE, warm_up.CODE, stability.CODE, smollm2.CODE])
def test_files_that_decide_a_cell_exist(files):
    assert all((digests.ROOT / name).is_file() for name in files)


def test_the_code_is_in_the_settings_of_every_experiment(monkeypatch):
    from experiments.harness import Cell

    settings = (
        lambda: cells.settings(Cell("habit", "grpo", 0)),
        lambda: hindsight.settings(Cell("habit", "grpo", 0)),
        lambda: stability.settings_of(Cell("policy=1e-2", "grpo", 0), {}),
        lambda: smollm2.settings_of(Cell("lcm", "grpo", 0), {}),
    )
    before = [one()["code"] for one in settings]
    for module in (stacks, stability, smollm2):
        monkeypatch.setattr(module, "digest_of_files", lambda files: "changed")
    assert [one()["code"] for one in settings] == ["changed"] * 4
    assert len(set(before)) == 4

"""Rules by name, import path and file; their options; what is refused, with the nearest valid name."""

import inspect

import pytest

from dgpo import rules
from dgpo.errors import ConfigError
from dgpo.names import import_function
from dgpo.rules import BUILT_IN, CreditRule, resolve

RULE = """
import torch

def capped(stats, *, cap=2.0):
    weights = stats.completion_mask.float()
    return weights

def needs(stats, *, share):
    return stats.completion_mask.float()

def nothing():
    return None

def takes_any(stats, **options):
    return stats.completion_mask.float()
"""


@pytest.fixture
def rule_file(tmp_path, monkeypatch):
    path = tmp_path / "my_rules.py"
    path.write_text(RULE)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_rule_resolves_with_its_defaults(name):
    rule = resolve(name)
    assert rule.name == name
    assert rule.function is BUILT_IN[name]
    assert len(rule.source) == 12


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_not_tried_gives_what_the_trial_gives(name, monkeypatch):
    """The trial loads torch: a built-in rule is resolved without, whatever its tau and kappa."""
    given = {"tau": (1e-300, 1e308), "kappa": (0, 1e308)}
    shared = [option for option in inspect.signature(BUILT_IN[name]).parameters if option in given]
    for place in range(2):
        options = {option: given[option][place] for option in shared}
        with monkeypatch.context() as patch:
            patch.setattr(rules, "_try", lambda rule: pytest.fail("it is tried"))
            rule = resolve(name, **options)
        assert rules._try(rule) == rule.batch_wide


@pytest.mark.parametrize(
    ("name", "options"), [("capped", {"cap": 2}), ("dgpo", {"kappa": True}), ("my_rules.py:capped", {})]
)
def test_what_may_not_work_is_tried(rule_file, monkeypatch, name, options):
    tried = []
    monkeypatch.setattr(rules, "_try", tried.append)
    resolve(name, **options)
    assert [rule.name for rule in tried] == [name]


def test_a_file_names_a_rule(rule_file):
    rule = resolve("my_rules.py:capped", cap=3.0)
    assert rule.describe() == {"rule": "my_rules.py:capped", "options": {"cap": 3.0}, "source": rule.source}
    assert resolve(f"{rule_file}:capped", cap=3.0).source == rule.source
    rule_file.write_text(RULE + "\n# changed")
    assert resolve("my_rules.py:capped").source != rule.source


def test_a_module_names_a_rule(rule_file, monkeypatch):
    monkeypatch.syspath_prepend(str(rule_file.parent))
    assert resolve("my_rules:capped").options == {"cap": 2.0}


def test_a_function_and_a_resolved_rule_resolve():
    def mine(stats, *, x=1):
        return stats.completion_mask.float()

    rule = resolve(mine, x=2)
    assert (rule.name, rule.options) == ("mine", {"x": 2})
    assert resolve(rule) == rule
    assert resolve(rule, x=3).options == {"x": 3}
    assert isinstance(rule, CreditRule)


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.py").write_text(f"def g():\n    return {value}\n")
    assert [import_function(f"{tmp_path / folder / 'f.py'}:g")() for folder in ("a", "b")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpgo", {}, r"no credit rule 'dpgo'\. Did you mean 'dgpo'\? Rules: dgpo, even, entropy"),
        ("zzz", {}, r"no credit rule 'zzz'\. Rules: dgpo"),
        ("dgpo", {"tua": 1}, r"dgpo has no option 'tua'\. Did you mean 'tau'\? Its options are tau, kappa\."),
        ("even", {"tau": 1}, r"even has no option 'tau'\. It has none\."),
        ("dgpo", {"tau": 0}, r"dgpo\(tau=0, kappa=1\.0\) does not work: tau must be"),
        ("one_sided", {"sign": "both"}, r"sign is 'both'"),
        ("gtpo", {"bonus": 2.0}, r"bonus is 2\.0; it is a share"),
        ("fipo", {"low": 0.0}, r"low must be"),
        ("effective_share", {"share": 1.5}, r"effective_share is 1\.5"),
        ("top_entropy", {"fraction": 0}, r"fraction is 0"),
        ("floored", {"floor": -1}, r"floor is -1"),
        ("my_rules.py:caped", {}, r"my_rules\.py has no function 'caped'\. Did you mean 'capped'\?"),
        ("my_rules.py:needs", {}, r"needs a value for share"),
        ("my_rules.py:nothing", {}, r"takes no arguments"),
        ("other.py:capped", {}, r"There is no file other\.py"),
        ("no.such.module:f", {}, r"there is no module 'no'"),
        (":f", {}, r"':f' is no import path"),
        ("broken.py:f", {}, r"'broken\.py:f' cannot be imported: ZeroDivisionError"),
        ("syntax.py:f", {}, r"cannot be imported: SyntaxError"),
    ],
)
def test_what_is_refused(rule_file, name, options, message):
    (rule_file.parent / "broken.py").write_text("1 / 0\n")
    (rule_file.parent / "syntax.py").write_text("def f(:\n")
    with pytest.raises(ConfigError, match=message):
        resolve(name, **options)


def test_any_option_where_the_rule_takes_any(rule_file):
    assert resolve("my_rules.py:takes_any", x=1).options == {"x": 1}

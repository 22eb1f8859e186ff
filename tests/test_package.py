"""The package from outside: what importing it loads, what it exports, and README snippets that run."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import dgpo
from dgpo.core import RuleTraits, TokenStats
from dgpo.rules import BUILT_IN
from process_groups import run_forked

ROOT = Path(__file__).parent.parent
HEAVY = ("trl", "transformers", "accelerate", "datasets", "peft", "triton", "ray", "verl", "matplotlib", "rich", "yaml")


# What the extra `lab` adds: a script with the trainer must do without.
NOT_IN_TRL = ("math_verify", "matplotlib", "reasoning_gym", "scipy", "shtab")


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_importing_dgpo_loads_torch_and_nothing_heavier(tmp_path):
    # torch itself may load triton; what counts is what comes on top of it.
    code = "import sys, torch; before = set(sys.modules); import dgpo; print(*(set(sys.modules) - before), sep='\\n')"
    loaded = {name.partition(".")[0] for name in run_python(code, tmp_path).split()}
    assert loaded >= {"dgpo"}
    assert loaded & set(HEAVY) == set()


def test_the_trainer_is_loaded_when_asked_for(tmp_path):
    code = f"import sys; sys.modules.update(dict.fromkeys({NOT_IN_TRL})); import dgpo; print(dgpo.DGPOTrainer.__name__)"
    assert run_python(code, tmp_path).strip() == "DGPOTrainer"


@pytest.mark.parametrize("package", [dgpo, dgpo.core])
def test_every_public_name_exists(package):
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_public_names_are_listed_before_they_are_loaded():
    assert set(dgpo.__all__) <= set(dir(dgpo))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DPGOTrainer'"):
        dgpo.DPGOTrainer  # noqa: B018


PAGES = ("README.md", "docs/credit-log.md", "docs/credit-rules.md", "docs/how-to/migrate-from-grpo.md")
SNIPPETS = re.findall(r"```python\n(.*?)```", "".join((ROOT / page).read_text() for page in PAGES), re.DOTALL)
OF_RULES = {page.stem: page.read_text() for page in sorted((ROOT / "docs" / "rules").glob("*.md"))}


def run_snippet(snippet: str, folder: Path) -> None:
    """Run a snippet as a script, in a process that has loaded torch and TRL."""
    os.chdir(folder)
    sys.modules.update(dict.fromkeys(NOT_IN_TRL))
    exec(compile(snippet, "snippet", "exec"), {"__name__": "__main__"})


def test_the_documents_have_snippets():
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {i}" for i in range(len(SNIPPETS))])
def test_documented_snippet_runs(snippet, tmp_path):
    (printed,) = run_forked(partial(run_snippet, snippet, tmp_path), ranks=None)
    if rewards := re.search(r"mean reward: ([\d.]+) .* ([\d.]+) in the last", printed):
        first, last = map(float, rewards.groups())
        assert last > first + 0.15
    assert ("mean reward" in snippet) == bool(rewards)


@pytest.mark.parametrize("page", OF_RULES)
def test_the_snippet_of_a_rules_page_runs(page, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", OF_RULES[page], re.DOTALL)
    exec(snippet, {})
    promised = re.findall(r"print\(.*\)  # ([\d., and]+)$", snippet, re.MULTILINE)
    numbers = [float(number) for comment in promised for number in re.findall(r"\d+(?:\.\d+)?", comment)]
    shown = [float(number) for number in re.findall(r"\d+\.\d*", capsys.readouterr().out)]
    assert numbers in ([], shown)


def test_the_readme_names_every_folder():
    readme = (ROOT / "README.md").read_text()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {path.partition("/")[0] for path in tracked.split() if "/" in path}
    modules = [path.removeprefix("src/dgpo/").split("/") for path in tracked.split() if path.startswith("src/dgpo/")]
    rooms = {parts[0] for parts in modules if len(parts) > 1}
    rooms |= {f"lab/{parts[1]}" for parts in modules if parts[0] == "lab" and len(parts) > 2}
    unnamed = [folder for folder in sorted(folders | rooms) if f"`{folder}/`" not in readme]
    assert unnamed == []


def test_the_equations_page_names_functions_that_exist():
    page = (ROOT / "docs" / "equations.md").read_text()
    names = set(re.findall(r"`dgpo\.(\w+)[`(]", page))
    assert {"group_advantages", "redistribution_weights", "lm_head_stats"} <= names
    assert [name for name in names if not hasattr(dgpo, name)] == []


def test_the_readme_shows_the_example_rule_and_the_measured_ratio():
    readme = (ROOT / "README.md").read_text()
    rule = (ROOT / "examples" / "custom_rule.py").read_text().split('"""\n\n', 1)[1]
    assert f"```python\n{rule}```" in readme
    ratios = re.search(r"time, DGPO / TRL GRPO \+ KL \|(.*)\|", readme)[1].split("|")
    low, high = min(map(float, ratios)), max(map(float, ratios))
    assert f"{low:.2f} to {high:.2f} of the time of TRL's" in readme


def test_the_page_of_rules_lists_every_rule_with_its_options():
    page = (ROOT / "docs" / "credit-rules.md").read_text()
    rows = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("| `")}
    for name, function in BUILT_IN.items():
        options = inspect.signature(function).parameters.values()
        shown = [f"`{option.name}={option.default!r}`" for option in options if option.default is not option.empty]
        assert [option for option in shown if option not in rows[name]] == [], name
    assert set(TokenStats._fields) <= set(rows)
    assert {field.name for field in dataclasses.fields(RuleTraits)} <= set(rows)


MAX_LINES = 300
# Files that are longer still. Shorten one, and take it off; none is to be added.
LONGER = {
    "tests/lab/cli/test_report.py",
    "tests/lab/rewards/test_math_pool.py",
    "tests/lab/rewards/test_math_answers.py",
    "tests/lab/tasks/test_file_tasks.py",
    "tests/lab/train/test_train.py",
}


def modules_of(*folders, suffixes=(".py",)):
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")))
    return [path for path in files if path.suffix in suffixes and "__pycache__" not in path.parts]


def test_no_file_is_longer_than_three_hundred_lines():
    files = modules_of("src", "tests", "experiments", "examples", suffixes=(".py", ".js", ".css"))
    longer = {str(path.relative_to(ROOT)) for path in files if path.read_text().count("\n") > MAX_LINES}
    assert longer - LONGER == set(), "split them"
    assert LONGER - longer == set(), "short by now: take them off the list"


def room_of(module):
    """`dgpo.core` of `dgpo.core.credit`, `dgpo.lab.tasks` of `dgpo.lab.tasks.forks.model`, `dgpo` of `dgpo.io`."""
    parts = module.split(".")
    depth = 3 if parts[1:2] == ["lab"] else 2
    return ".".join(parts[:depth]) if len(parts) > depth or (ROOT / "src" / Path(*parts)).is_dir() else "dgpo"


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_what_has_an_underscore_stays_in_its_room():
    crossing = []
    for path in modules_of("src"):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for name in imported_names(path):
            private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
            if name.startswith("dgpo.") and private and room_of(name) != room_of(module):
                crossing.append(f"{module} imports {name}")
    assert crossing == []

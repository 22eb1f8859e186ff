"""YAML that grows, holds itself, nests for ever or lies about its kinds: bounded time, one short message."""

import time

import pytest
import yaml

from dgpo.errors import RecipeError
from dgpo.lab import yaml12
from dgpo.lab.recipe_files import LARGEST_RECIPE
from dgpo.lab.train.recipe import load_recipe

LAYERS = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
BOMB = f"a: &a [x, x, x, x, x, x, x, x, x]\n{LAYERS}"

HOSTILE = {
    "aliases ten deep": (f"{BOMB}run_name: *j\n", "more than 10,000 values"),
    "a bomb in a field of text": ("run_name: &a [" + "x, " * 9000 + "x]\ntask_args: {a: *a}\n", "10,000 values"),
    "merged mappings": (
        "task_args: {a: &a {" + ", ".join(f"k{i}: 1" for i in range(999)) + "}, b: {<<: [*a, *a, *a, *a, *a]}}\n",
        "10,000",
    ),
    "a mapping in itself": ("task_args: &a {b: *a}\n", r"r.yaml:1: .*\*a holds itself"),
    "a list in itself": ("run_name: &a [[*a]]\n", "holds itself"),
    "brackets": ("task_args: " + "[" * 50_000, "nested more than 50 deep"),
    "braces": ("task_args: " + "{a: " * 5000, "nested more than 50 deep"),
    "indentation": ("".join(" " * i + "a:\n" for i in range(500)), "nested more than 50 deep"),
    "20,000 unknown keys": ("".join(f"key{i}: 1\n" for i in range(20_000)), "more than 10,000 values"),
    "4,000 unknown keys": ("".join(f"key{i}: 1\n" for i in range(4000)), "4000 things to put right"),
    "a long key": ("? " + "k" * 100_000 + "\n: 1\n", r"unknown key 'k{100}\.\.\.'"),
    "a long text": ("seed: " + "x" * 500_000 + "\n", r"got 'x+\.\.\. \(text\)"),
    "a long number": ("seed: " + "1" * 5000 + "\n", "is no int"),
    "a long file": ("#" * (LARGEST_RECIPE + 1), "more than 1,048,576 characters"),
    "a mapping for a key": ("? {a: 1}\n: 2\n", "a key must be a name"),
    "a lie about a boolean": ("bf16: !!bool abc\n", "'abc' is no bool"),
    "a lie about a number": ("tau: !!float ''\n", "'' is no float"),
    "a time": ("run_name: !!timestamp x\n", "could not determine a constructor"),
    "bytes": ("run_name: !!binary aGk=\n", "could not determine a constructor"),
    "an object of Python": ("run_name: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "a null character": ("run_name: \0\n", "not valid YAML"),
    "repeated keys in a list": ("task_args: {b: [{c: 1, c: 2}]}\n", "'c' is set a second time"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_at_once_and_shortly(name, tmp_path, schema):
    text, reason = HOSTILE[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(RecipeError, match=reason) as refused:
        load_recipe(path, [], schema)
    assert time.process_time() - started < 5  # 90 s and more without the bounds
    assert len(str(refused.value)) < 8000


@pytest.mark.parametrize("text", ["[" * 3000, "&a [*a]", "!!bool x", "1" * 5000, "\0"])
def test_a_value_of_the_command_line_that_is_not_yaml_is_text(text):
    assert yaml12.parse_value(text) == text


def test_a_bomb_on_the_command_line_is_text():
    nested = "x"
    for name in "abcdef":
        nested = f"[&{name} {nested}" + f", *{name}" * 9 + "]"
    assert yaml12.parse_value(nested) == nested


def test_anchors_and_merge_keys_are_read():
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n"
    assert yaml12.load(text) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


def test_marks_that_cannot_be_seen_are_escaped_and_read_back():
    values = {"run_name": "x\u202ey\x1b[2J", "task": "\ud800", "model": "é"}
    text = yaml12.dump_values(values)
    text.encode()
    assert {"\u202e", "\x1b"}.isdisjoint(text)
    assert yaml12.load(text) == yaml.safe_load(text) == values
    assert yaml12.dump_values({"model": "é"}) == "model: é\n"

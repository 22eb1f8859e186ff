"""The short form of the fuzzers; `make fuzz` is the long one."""

import collections
import os

import cases
import data_files
import pytest


@pytest.mark.parametrize("part", range(4))
def test_calls_of_the_core_give_an_answer_or_a_message(part, unchecked_shapes):
    outcomes = collections.Counter(cases.core_call(seed) for seed in range(300 * part, 300 * (part + 1)))
    assert outcomes["finite"] > 150
    assert outcomes["refused"] > 20


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipes_are_accepted_or_refused_in_a_message(here, schema):
    outcomes = collections.Counter(cases.recipe_run(seed, here / "r.yaml", schema) for seed in range(40))
    assert outcomes["accepted"] > 3
    assert outcomes["refused"] > 10
    assert os.listdir(here) == ["r.yaml"]


def test_data_files_are_read_or_refused_in_a_message(here):
    outcomes = collections.Counter(data_files.data_read(seed, here) for seed in range(60))
    assert outcomes["read"] > 5
    assert outcomes["refused"] > 10

"""Python's collector rests while the libraries load, and comes back."""

import gc
import sys

import pytest

from dgpo.lab.train.loading import without_garbage_collection


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "trl", raising=False)
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unloaded")
def test_it_rests_until_they_are_loaded_and_leaves_what_they_made_alone():
    before = gc.get_freeze_count()
    with pytest.raises(KeyError), without_garbage_collection():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + 1000


@pytest.mark.usefixtures("unloaded")
def test_who_has_switched_it_off_finds_it_so():
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_libraries_that_are_loaded_already_change_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", sys)
    before = gc.get_freeze_count()
    with without_garbage_collection():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before

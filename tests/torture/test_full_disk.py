"""A real disk that is full: a small tmpfs, where this process may mount one."""

import subprocess

import pytest
from commands import ALL, check_message, chosen, continue_training, dgpo, facts_of_evaluation, facts_of_run
from file_operations import FULL


def mount(*words) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A function that makes an empty disk of so many KiB; `None` makes the present one large."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def make(kib: int | None):
        if kib is None:
            assert mount("-o", "remount,size=512m", str(place))
            return place
        while mounted:
            subprocess.run(["umount", mounted.pop()], check=True)
        if not mount("-t", "tmpfs", "-o", f"size={kib}k", "none", str(place)):
            pytest.skip("no tmpfs can be mounted here")
        mounted.append(str(place))
        return place

    yield make
    for path in mounted:
        subprocess.run(["umount", path], check=True)


def sizes(small, name: str, few: int) -> list[int]:
    """Disks between nothing and what a whole run takes, in KiB."""
    folder = small.whole / {"train": "run", "eval": "measured"}[name]
    # Before older checkpoints are deleted, a run holds two.
    needed = 2 * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024
    steps = 16
    return chosen(
        [max(8, needed * step // steps) for step in range(1, steps)], 0, 1, 15 if ALL else few, f"disk {name}"
    )


def spare_the_estimate() -> None:
    """A run looks at the free space before it begins; another program may fill the disk later."""
    from dgpo.lab.train import validate

    validate.check_space_for_checkpoints = lambda *_, **__: None


def test_training(small, disk):
    words, full = small.words["train"], 0
    for kib in sizes(small, "train", 2):
        folder = disk(kib)
        ended = dgpo(words, folder, first=spare_the_estimate)
        check_message(ended, FULL)
        full += ended.code != 0
        disk(None)
        if ended.code or not (folder / "run" / "summary.json").exists():
            continue_training(words, folder)
            facts = facts_of_run(folder / "run")
            assert [name for name in facts if facts[name] != small.facts["train"].get(name)] == [], f"{kib} KiB"
    assert full


def test_evaluation(small, disk):
    words, full = small.words["eval"], 0
    for kib in sizes(small, "eval", 2):
        folder = disk(kib)
        ended = dgpo(words, folder)
        check_message(ended, FULL)
        full += ended.code != 0
        disk(None)
        assert dgpo(words, folder).code == 0
        assert facts_of_evaluation(folder / "measured") == small.facts["eval"], f"{kib} KiB"
    assert full

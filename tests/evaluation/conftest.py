import json

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model that speaks a little of the language of forks, made in a second."""
    from dgpo.tasks.forks import warm_up_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return warm_up_model(num_forks=1, steps=40, batch_size=16, hidden_size=16, num_layers=1, progress=False)


@pytest.fixture
def write_jsonl(tmp_path):
    def write(rows, name="exam.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write

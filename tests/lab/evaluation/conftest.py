import json

import pytest


@pytest.fixture
def write_jsonl(tmp_path):
    def write(rows, name="exam.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write

"""Secrets by name and form: found wherever they lie, hidden in what is written."""

import json
import pickle
from dataclasses import dataclass

import pytest

from dgpo.rules import CreditRule
from dgpo.secrets import HIDDEN, find_secrets, hide_in_text, hide_secrets

# Made up, and put together here so that no scanner of repositories takes them for real ones.
LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
BY_FORM = [
    f"hf_{LETTERS}",
    f"sk-{LETTERS}",
    f"ghp_{LETTERS}",
    f"github_pat_{LETTERS}",
    f"glpat-{LETTERS}",
    "AKIA" + "ABCDEFGHIJKLMNOP",
    f"AIza{LETTERS}",
    "xoxb-" + "1234567890-abc",
    f"pypi-{LETTERS}",
    f"eyJ{LETTERS}.{LETTERS}.{LETTERS}",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    "https://user:hunter2@example.org/v1",
    "postgres://:hunter2@example.org/db",
    f"Bearer {LETTERS}",
    "https://example.org/v1?model=a&token=hunter2",
    "https://example.org/v1?api_key=hunter2",
]
BY_NAME = ["token", "hub_token", "HF_TOKEN", "use_auth_token", "api_key", "apikey", "OPENAI_API_KEY", "secret"]
BY_NAME += ["client_secret", "password", "db-password", "aws_secret_access_key", "access_token", "Authorization"]
ORDINARY = [
    {"eos_token": "</s>", "pad_token": "<pad>", "token": "<think>", "stop_token": "a", "use_auth_token": True},
    {"num_tokens": 5, "max_new_tokens": "12", "key": "value", "keys": ["a"], "token": None, "password": ""},
    {"model": "owner/name", "revision": "0123456789abcdef0123456789abcdef01234567", "url": "http://host:8000/v1"},
    {"system_prompt": "The secret is to add. Token: a word. Your password?", "path": "a@b:c", "task": "my.jsonl"},
]


@pytest.mark.parametrize("text", BY_FORM)
def test_a_secret_is_known_by_its_form_wherever_it_lies(text):
    value = {"a": {"b": [1, ("x", text)]}, "json": json.dumps({"deep": {"er": text}}), f"key {text}": 1}
    assert set(find_secrets(value)) == {"a.b", "json.deep.er", HIDDEN}
    for part in (LETTERS, "hunter2", "MIIE", "ABCDEFGHIJKLMNOP", "1234567890-abc"):
        assert part not in json.dumps(hide_secrets(value))
        assert part not in hide_in_text(f"Error 401: {text} is wrong")


@pytest.mark.parametrize("name", BY_NAME)
def test_a_secret_is_known_by_its_name(name):
    value = {"outer": [{name: "short"}], "text": json.dumps({name: "short"}), "bytes": {name: b"short"}}
    assert find_secrets(value) == [f"outer.{name}", f"text.{name}", f"bytes.{name}"]
    assert "short" not in json.dumps(hide_secrets(value))


@pytest.mark.parametrize("value", ORDINARY)
def test_ordinary_values_are_left_alone(value):
    assert find_secrets(value) == []
    assert hide_secrets(value) is value


def test_a_dataclass_is_looked_into():
    @dataclass
    class Options:
        api_key: str = "short"

    assert find_secrets({"x": Options()}) == ["x.api_key"]
    assert hide_secrets({"x": Options()}) == {"x": HIDDEN}


def test_values_of_the_environment_are_hidden_in_texts(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SOME_PATH", "/opt/0123")
    monkeypatch.setenv("MY_TOKEN", "ab")  # too short to be looked for
    monkeypatch.setenv("MY_API_TOKEN", "ordinary")
    text = "wandb: 0123456789abcdef was refused in /opt/0123, ab, not ordinary"
    assert hide_in_text(text) == f"wandb: {HIDDEN} was refused in /opt/0123, ab, not {HIDDEN}"


def test_a_record_of_a_rule_holds_no_secret():
    rule = CreditRule("mine", lambda stats: None, {"api_key": "short", "tau": 0.5})
    assert rule.describe()["options"] == {"api_key": HIDDEN, "tau": 0.5}
    assert "short" not in str(rule)


def test_a_pickled_configuration_and_what_trackers_get_hold_no_secret():
    from dgpo import DGPOConfig

    init = {"token": "short", "revision": "main", "more": {"api_key": "short"}}
    config = DGPOConfig(output_dir="x", use_cpu=True, report_to=[], hub_token="short", model_init_kwargs=init)
    assert b"short" not in pickle.dumps(config)
    assert "short" not in json.dumps(config.to_dict()) + config.to_json_string() + repr(config.to_sanitized_dict())
    copied = pickle.loads(pickle.dumps(config))
    assert copied.model_init_kwargs["revision"] == "main"
    assert type(copied.save_strategy) is type(config.save_strategy)
    assert (config.hub_token, config.model_init_kwargs) == ("short", init)  # what is used stays

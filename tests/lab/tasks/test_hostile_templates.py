"""Chat templates that raise, loop for ever, or ask for the memory: one line, in bounded time."""

import resource
import signal
import threading
import time

import pytest

from dgpo.errors import ConfigError
from dgpo.lab.cli.main import main
from dgpo.lab.limits import limited
from dgpo.lab.tasks import prompting
from dgpo.lab.tasks.prompting import PromptFormat
from train_project import make_model, make_tokenizer

LOOP = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
TEMPLATES = {
    "raises": (
        "{{ raise_exception('roles must\n alternate') }}",
        "cannot render a prompt (user): roles must alternate.",
    ),
    "loops": (LOOP, "took longer than 2 seconds of processor time"),
    "asks for the memory": ("{{ 'a' * 10 ** 11 }}", "asked for more than 1024 MiB"),
    "grows": ("{{ 'a' * 20000000 }}", "made 20,000,000 characters"),
    "does not parse": ("{% for %}", "Expected an expression"),
    "reads what is not there": ("{{ messages[7].content.x }}", "no element 7"),
    "leaves the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "changes the messages": ("{{ messages.append(1) }}", "unsafe"),
    "a number too large": ("{{ range(10 ** 9) }}", "Range too big"),
}


@pytest.fixture(autouse=True)
def _less_patience(monkeypatch):
    monkeypatch.setattr(prompting, "_SECONDS", 2.0)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_template_gets_one_line_in_bounded_time(name):
    template, reason = TEMPLATES[name]
    tokenizer = make_tokenizer(chat_template=template)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        PromptFormat().text("1?", tokenizer)
    assert time.process_time() - started < 20
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_wrong_argument_of_a_template_is_named():
    with pytest.raises(ConfigError, match=r"gave a .* and no text; chat_template_kwargs .* hold tokenize"):
        PromptFormat(template_kwargs={"tokenize": True}).text("1?", make_tokenizer())


@pytest.mark.parametrize("command", ["eval", "inspect", "train"])
def test_every_command_says_it_in_one_line(command, tmp_path, recipe_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tokenizer(chat_template=TEMPLATES["raises"][0])
    make_model(tokenizer).save_pretrained("model")
    tokenizer.save_pretrained("model")
    (tmp_path / "pairs.csv").write_text("question,answer\n" + "".join(f"{i}?,{i}\n" for i in range(9)))
    recipe_file("task: pairs.csv\nmodel_name_or_path: model\nbf16: false\nmax_completion_length: 4\noutput_dir: run\n")
    capsys.readouterr()
    words = {
        "eval": ["eval", "model", "--task", "pairs.csv", "--n", "1", "--output", "run"],
        "inspect": ["inspect", "model", "--reference", "model", "--prompt", "1?"],
        "train": ["train", "small.yaml"],
    }
    assert main(words[command]) == 2
    assert capsys.readouterr().err.startswith(
        "dgpo: the chat template of the model cannot render a prompt (user): roles"
    )
    assert not (tmp_path / "run").exists()


def test_limits_outside_of_the_main_thread_change_nothing():
    done = []

    def work():
        with limited(0.01, 1000):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done

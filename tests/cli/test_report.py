"""`dgpo report` and `dgpo inspect` from the command line."""

import pytest
import torch

from dgpo.cli.main import main
from dgpo.report.credit_log import CreditLog, CreditSettings


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two small models with one tokenizer, and one with another vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")

    def make(name, seed, words):
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(
            vocab_size=len(words), max_position_embeddings=64, initializer_range=0.3, bos_token_id=1, **shape
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>").save_pretrained(
            folder / name
        )

    words = ["<unk>", "<bos>", *"abcdefgh"]
    make("policy", 0, words)
    make("reference", 1, words)
    make("larger", 1, [*words, "i"])
    make("other", 1, ["<unk>", "<bos>", *"hgfedcba"])
    return folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "phase": "train", "reward": 0.5}\n')
    CreditLog(folder, CreditSettings(0.5, 1.0, 50, "trl")).write(1, [])
    return folder


def test_the_page_is_put_beside_the_run(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_two_runs_go_where_they_are_told(run, tmp_path):
    assert main(["report", str(run), str(run), "-o", str(tmp_path / "new" / "both.html")]) == 0
    assert (tmp_path / "new" / "both.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "/nowhere"], "/nowhere: there is no such directory"),
        (["report", "-o", "x.html"], "needs the directory of a run"),
        (["report", ".", "--tau", "1"], "has no option --tau"),
        (["report", ".", "-o"], "-o needs a file"),
        (["inspect", "model"], "--reference"),
        (["inspect", "model", "--reference", "m"], "--text FILE scores a file"),
        (["inspect", "m", "--reference", "m", "--prompt", "x", "--tau", "0"], "--tau must be above 0"),
        (["inspect", "m", "--reference", "m", "--text", "/nowhere.txt"], "/nowhere.txt cannot be read"),
        (["inspect", "/no/model", "--reference", "m", "--prompt", "a"], "there is no such folder"),
    ],
)
def test_bad_input_gets_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_help_teaches(command, capsys):
    assert main([command, "--help"]) == 0
    assert "Examples" in capsys.readouterr().out


def captured(monkeypatch):
    """What `inspect` puts on its page."""
    pages, from_page = [], __import__("dgpo.report.page", fromlist=["render_page"])
    render = from_page.render_page
    monkeypatch.setattr(from_page, "render_page", lambda runs, **options: pages.append(runs) or render(runs, **options))
    return pages


def test_a_text_is_scored_as_full_logits_say(pair, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    import dgpo

    pages = captured(monkeypatch)
    (tmp_path / "text.txt").write_text("a b c d e f")
    options = ["--tau", "0.1", "--temperature", "0.7", "-o", str(tmp_path / "page.html")]
    words = [str(pair / "policy"), "--reference", str(pair / "reference"), "--text", str(tmp_path / "text.txt")]
    assert main(["inspect", *words, *options]) == 0
    (found,) = pages[0][0].steps[0].completions
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])  # <bos> a b c d e f
    with torch.no_grad():
        p, q = (
            AutoModelForCausalLM.from_pretrained(pair / name)(ids).logits[:, :-1] / 0.7
            for name in ("policy", "reference")
        )
    d, entropy = dgpo.per_token_hellinger_sq(p, q), dgpo.per_token_entropy(p)
    scores = dgpo.gated_scores(d, entropy, vocab_size=10)
    weights = dgpo.redistribution_weights(scores, torch.ones(1, 6, dtype=torch.bool), tau=0.1)
    assert found.ids == [2, 3, 4, 5, 6, 7]
    assert found.d == pytest.approx(d[0].tolist(), rel=1e-4)
    assert found.w == pytest.approx(weights[0].tolist(), rel=1e-4)
    assert max(found.w) > 1.05
    logp = p.log_softmax(-1)[0].gather(1, ids[0, 1:, None])[:, 0]
    assert found.logp == pytest.approx(logp.tolist(), rel=1e-4)
    top = p.softmax(-1)[0].topk(5)
    for place in range(6):
        assert [x for _, x in found.alternatives[place]["policy"]] == pytest.approx(
            top.values[place].tolist(), rel=1e-4
        )


def test_a_prompt_is_continued(pair, tmp_path, monkeypatch):
    pages = captured(monkeypatch)
    words = [str(pair / "policy"), "--reference", str(pair / "policy"), "--prompt", "a b", "--max-tokens", "9"]
    assert main(["inspect", *words, "-o", str(tmp_path / "page.html")]) == 0
    (found,) = pages[0][0].steps[0].completions
    assert found.prompt == "a b"
    assert 1 <= len(found.ids) <= 9
    assert found.w == [1.0] * len(found.ids)  # the reference is the policy


@pytest.mark.parametrize(
    ("reference", "message"), [("larger", r"another tokenizer \(11 words, .* 10\): its word 'i' .* does not know it"), ("other", "another tokenizer: its word")]
)
def test_models_over_other_words_are_refused(pair, capsys, reference, message):
    import re

    assert main(["inspect", str(pair / "policy"), "--reference", str(pair / reference), "--prompt", "a"]) == 2
    assert re.search(message, capsys.readouterr().err)

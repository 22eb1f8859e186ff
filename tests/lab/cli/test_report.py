"""`dgpo report` and `dgpo inspect` from the command line."""

import pytest
import torch

from dgpo.credit_log import CreditLog, CreditSettings
from dgpo.lab.cli.main import main

INSPECT = ["inspect", "model", "--reference", "model", "--prompt", "a"]


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
    CreditLog(folder, CreditSettings("dgpo", {"tau": 0.5, "kappa": 1.0}, "", 50, "trl")).write(1, [])
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
        (["report", ".", "--tau", "1"], "has no option '--tau'"),
        (["report", ".", "-o"], "-o needs a file"),
        (["inspect", "model"], "--reference"),
        (["inspect", "model", "--reference", "m"], "--text FILE scores a file"),
        (["inspect", "m", "--reference", "m", "--prompt", "x", "--tau", "0"], "--tau must be above 0"),
        (["inspect", "m", "--reference", "m", "--text", "/nowhere.txt"], "/nowhere.txt cannot be read"),
        (["inspect", "/no/model", "--reference", "m", "--prompt", "a"], "there is no such folder"),
        ([*INSPECT, "--rule", "capt"], "There is no credit rule 'capt'. Did you mean 'capped'?"),
        ([*INSPECT, "--rule", "even", "--tau", "0.1"], "The credit rule even has no option 'tau'."),
        ([*INSPECT, "--rule", "capped", "--options.cp", "3"], "no option 'cp'. Did you mean 'cap'?"),
        ([*INSPECT, "--options.tau=1", "--tau", "2"], "--tau and --options.tau are the same option"),
        ([*INSPECT, "--options.cap"], "--options.cap needs a value"),
        ([*INSPECT, "--rule", "gtpo"], "compares the completions of a prompt, and here is a single one"),
        ([*INSPECT, "--rule", "/no/rules.py:mine"], "There is no file /no/rules.py"),
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
    pages, from_page = [], __import__("dgpo.lab.report.page", fromlist=["render_page"])
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


RULE = """
import torch
from dgpo.core import credit_rule


@credit_rule(reads=(), signed={signed})
def last_token(stats, *, share=0.5):
    mask = stats.completion_mask.float()
    last = mask * (mask.cumsum(-1) == mask.sum(-1, keepdim=True)) * mask.sum(-1, keepdim=True)
    return {sign} * ((1 - share) * mask + share * last)
"""


@pytest.mark.parametrize("signed", [False, True])
def test_a_rule_in_a_file_gives_the_credit(pair, tmp_path, monkeypatch, signed):
    pages = captured(monkeypatch)
    (tmp_path / "rules.py").write_text(RULE.format(signed=signed, sign=-1 if signed else 1))
    (tmp_path / "text.txt").write_text("a b c d")
    command = ["inspect", str(pair / "policy"), "--reference", str(pair / "reference")]
    options = ["--rule", f"{tmp_path / 'rules.py'}:last_token", "--options.share", "0.25", "--temperature=0.7"]
    text = ["--text", str(tmp_path / "text.txt"), "-o", str(tmp_path / "page.html")]
    assert main([*command, *options, *text]) == 0
    (step,) = pages[0][0].steps
    (read,) = step.completions
    credit = [0.75, 0.75, 0.75, 1.75]
    assert (read.w, read.a) == (([None] * 4, [-x for x in credit]) if signed else (credit, [None] * 4))
    assert min(read.d) > 0  # the reference is there, though the rule does not read it
    assert step.header["options"] == {"share": 0.25}
    assert len(step.header["source"]) == 12
    assert "last_token" in (tmp_path / "page.html").read_text()


def test_a_prompt_is_continued(pair, tmp_path, monkeypatch):
    pages = captured(monkeypatch)
    words = [str(pair / "policy"), "--reference", str(pair / "policy"), "--prompt", "a b", "--max-tokens", "9"]
    assert main(["inspect", *words, "-o", str(tmp_path / "page.html")]) == 0
    (found,) = pages[0][0].steps[0].completions
    assert found.prompt == "a b"
    assert 1 <= len(found.ids) <= 9
    assert found.w == [1.0] * len(found.ids)  # the reference is the policy


def test_the_small_model_of_forks_is_known_by_its_name(tmp_path, monkeypatch):
    from dgpo.lab.tasks.forks import warm_up_model

    monkeypatch.setenv("DGPO_CACHE", str(tmp_path))
    made = []

    def quick(**options):
        made.append(options)
        return warm_up_model(num_forks=1, steps=2, progress=False)

    monkeypatch.setattr("dgpo.lab.tasks.forks.warm_up_model", quick)
    pages = captured(monkeypatch)
    words = ["inspect", str(quick()), "--reference", "forks", "--prompt", "7 3 ?", "-o", str(tmp_path / "page.html")]
    assert main(words) == 0
    assert made == [{}, {"seed": 0}]
    (found,) = pages[0][0].steps[0].completions
    assert found.d == pytest.approx([0.0] * len(found.d), abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("larger", r"another tokenizer \(11 tokens, .* 10\): its token 'i' .* does not have it"),
        ("other", "another tokenizer .*: its token"),
    ],
)
def test_models_over_other_vocabularies_are_refused(pair, capsys, reference, message):
    import re

    assert main(["inspect", str(pair / "policy"), "--reference", str(pair / reference), "--prompt", "a"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_heads_of_different_sizes_are_refused(pair, tmp_path, capsys):
    """The same tokenizer, and one head with padding: the ids mean the same, the distributions are over other words."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(pair / "policy")
    model.resize_token_embeddings(16)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(pair / "policy").save_pretrained(tmp_path)
    assert main(["inspect", str(pair / "policy"), "--reference", str(tmp_path), "--prompt", "a"]) == 2
    error = capsys.readouterr().err
    assert f"vocabulary sizes differ: {pair / 'policy'} 10, {tmp_path} 16" in error
    assert error.count("\n") == 1


@pytest.fixture
def adapter(pair, tmp_path):
    """A LoRA folder without a tokenizer, and the same model merged by hand."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(pair / "policy"),
        LoraConfig(r=2, target_modules=["q_proj", "down_proj", "lm_head"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model


def test_an_adapter_is_scored_with_its_head(pair, adapter, tmp_path, monkeypatch):
    import dgpo

    pages = captured(monkeypatch)
    folder, model = adapter
    words = [str(folder), "--reference", str(pair / "policy"), "--prompt", "a b", "--max-tokens", "5"]
    assert main(["inspect", *words, "-o", str(tmp_path / "page.html")]) == 0
    (found,) = pages[0][0].steps[0].completions
    ids = torch.tensor([[2, 3, *found.ids]])  # a b
    with torch.no_grad():
        p = model(ids).logits[:, 1:-1]
        with model.disable_adapter():
            q = model(ids).logits[:, 1:-1]
    assert found.d == pytest.approx(dgpo.per_token_hellinger_sq(p, q)[0].tolist(), rel=1e-3, abs=1e-6)
    assert max(found.d) > 0.01


def test_a_prompt_goes_through_the_chat_template(pair, tmp_path, monkeypatch):
    import shutil

    from transformers import AutoTokenizer

    folder = shutil.copytree(pair / "policy", tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "h {{ messages[0].content }} g"
    tokenizer.save_pretrained(folder)
    pages = captured(monkeypatch)
    (tmp_path / "text.txt").write_text("c d")
    words = ["inspect", str(folder), "--reference", str(folder), "--prompt", "a", "--text", str(tmp_path / "text.txt")]
    for more in ([], ["--plain"]):
        assert main([*words, *more, "-o", str(tmp_path / "page.html")]) == 0
    prompts = [page[0].steps[0].completions[0].prompt for page in pages]
    assert prompts == ["h a g", "a"]
    assert [page[0].steps[0].completions[0].tokens for page in pages] == [["c", " d"]] * 2


def test_a_head_that_does_more_than_it_says_is_refused(pair, tmp_path, monkeypatch, capsys):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def scaled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 1.1
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", scaled)
    words = [str(pair / "policy"), "--reference", str(pair / "reference"), "--prompt", "a"]
    assert main(["inspect", *words, "-o", str(tmp_path / "page.html")]) == 2
    assert "computes its logits in a way that is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("words", [70, 1])
def test_a_text_longer_than_the_context_is_cut_and_an_empty_one_refused(pair, tmp_path, monkeypatch, capsys, words):
    pages = captured(monkeypatch)
    (tmp_path / "text.txt").write_text("a " * words if words > 1 else "")
    command = ["inspect", str(pair / "policy"), "--reference", str(pair / "reference")]
    code = main([*command, "--text", str(tmp_path / "text.txt"), "-o", str(tmp_path / "page.html")])
    if words == 1:
        assert (code, len(pages)) == (2, 0)
        assert "is empty" in capsys.readouterr().err
    else:
        assert "Only the first 63 of 70 tokens are scored" in capsys.readouterr().out
        assert len(pages[0][0].steps[0].completions[0].ids) == 63  # 64 positions, the first is <bos>


def test_columns_of_a_rule_reach_the_page(pair, tmp_path, monkeypatch):
    pages = captured(monkeypatch)
    (tmp_path / "rule.py").write_text(
        "from dgpo.core import credit_rule\n\n\n"
        "@credit_rule(reads=())\ndef even(stats):\n"
        "    mask = stats.completion_mask.float()\n    return mask, {'place': mask.cumsum(-1)}\n"
    )
    (tmp_path / "text.txt").write_text("a b c")
    words = [str(pair / "policy"), "--reference", str(pair / "reference"), "--text", str(tmp_path / "text.txt")]
    options = ["--rule", f"{tmp_path / 'rule.py'}:even", "-o", str(tmp_path / "page.html")]
    assert main(["inspect", *words, *options]) == 0
    (found,) = pages[0][0].steps[0].completions
    assert found.columns["place"] == [1.0, 2.0, 3.0]


HINDSIGHT = ["--prompt", "a b", "--rule", "hindsight", "--hint-template", "{hint} {prompt}"]


@pytest.mark.parametrize("control", [None, "e"])
def test_a_hint_is_shown_to_the_reference(pair, tmp_path, monkeypatch, control):
    """i and d are of the reference after both prompts; the policy has no part in them."""
    from transformers import AutoModelForCausalLM

    import dgpo

    pages = captured(monkeypatch)
    (tmp_path / "text.txt").write_text("c d e")
    words = [str(pair / "policy"), "--reference", str(pair / "reference"), "--text", str(tmp_path / "text.txt")]
    compared = ["--hint-control", control] if control else []
    assert main(["inspect", *words, *HINDSIGHT, "--hint", "f", *compared, "-o", str(tmp_path / "page.html")]) == 0
    (found,) = pages[0][0].steps[0].completions
    assert (found.prompt, found.hint, found.control, found.tokens) == ("a b", "f", control, ["c", " d", " e"])
    reference = AutoModelForCausalLM.from_pretrained(pair / "reference", dtype=torch.float32)
    a, b, c, d, e, f = (2 + place for place in range(6))  # after the special ones
    prompts = [f, a, b], [e, a, b] if control else [a, b]
    with torch.no_grad():
        told, plain = (reference(torch.tensor([[*x, c, d, e]])).logits[:, len(x) - 1 : -1] for x in prompts)
    distance = dgpo.per_token_hellinger_sq(told, plain)[0]
    ratio = (told.log_softmax(-1) - plain.log_softmax(-1))[0, range(3), [c, d, e]]
    assert found.columns["hindsight_hellinger_sq"] == pytest.approx(distance.tolist(), rel=1e-3, abs=1e-6)
    assert found.columns["hindsight_log_ratio"] == pytest.approx(ratio.tolist(), rel=1e-3, abs=1e-5)
    assert len(set(found.a)) > 1
    assert "log-ratio of the hint" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (HINDSIGHT[:-2], "shown a hint, and there is none. Give one: --hint 'the right answer'"),
        (HINDSIGHT, "--hint-template needs --hint"),
        (["--prompt", "a", "--hint-control", "f"], "--hint-control needs --hint"),
        ([*HINDSIGHT[:-1], "{prompt}", "--hint", "f"], "--hint-template='{prompt}' must contain {hint}"),
        ([*HINDSIGHT, "--hint", ""], "give --prompt and a hint, got ''"),
        (["--prompt", "a", "--hint", "f"], "reads no hint. Use --rule hindsight"),
    ],
)
def test_hints_that_cannot_work_are_refused(words, message, capsys):
    assert main(["inspect", "nowhere", "--reference", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err

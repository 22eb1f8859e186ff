"""Runs TRL's own tests of `GRPOTrainer` with TRL's trainer and with ours, and prints what comes out differently.

    git clone --depth 1 --branch v1.16.0 https://github.com/huggingface/trl
    python tests/run_trl_tests.py trl                    # all of them, a quarter of an hour on two cores
    python tests/run_trl_tests.py trl -k loss_types      # what follows goes to pytest

A development check. The tests are copied into a temporary folder, where the names of TRL's trainer and configuration
are replaced by ours. The models and data that they take from the hub are made here, tiny and random. What cannot be
made (models with images, tokenizers with tools) fails with TRL's trainer as well, and is not compared.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

HUB = "trl-internal-testing"
FILES = ("__init__.py", "conftest.py", "testing_constants.py", "testing_utils.py", "test_grpo_trainer.py")
IMPORT = "from trl import GRPOConfig, GRPOTrainer\n"
OURS = "from dgpo import DGPOConfig as GRPOConfig\nfrom dgpo import DGPOTrainer as GRPOTrainer\n"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "Beautiful is better than",
    "Explicit is",
    "Simple is better",
    "Complex",
    "Flat is better than nested",
    "Now",
)
SIZES = {
    **{"vocab_size": 400, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
    **{"moe_intermediate_size": 16, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
}


def make_models(names: set[str], folder: Path) -> None:
    """Make the models that transformers knows by the class in their name; the others are left out."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    for name in sorted(names):
        found = re.match(r"tiny-(\w+For(?:CausalLM|SequenceClassification))", name)
        model_class = getattr(transformers, found[1], None) if found else None
        if model_class is None:
            continue
        ends = {"eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id, "bos_token_id": None}
        labels = {"num_labels": 1} if "Classification" in name else {}
        try:
            model = model_class(model_class.config_class(**SIZES, **ends, **labels))
            model.save_pretrained(folder / name)
        except Exception as error:
            print(f"{name} could not be made: {error}")
            shutil.rmtree(folder / name, ignore_errors=True)
            continue
        fast.save_pretrained(folder / name)


def make_data(folder: Path) -> None:
    """Make the prompts, as `datasets` loads them from a folder."""
    from datasets import Dataset

    kinds = {
        "standard_prompt_only": lambda text: text,
        "conversational_prompt_only": lambda text: [{"role": "user", "content": text}],
    }
    lines = ["---", "configs:"]
    for kind, prompt in kinds.items():
        lines += [f"- config_name: {kind}", "  data_files:"]
        for split, count in {"train": 17, "test": 3}.items():
            rows = [{"prompt": prompt(SENTENCES[row % len(SENTENCES)])} for row in range(count)]
            Dataset.from_list(rows).to_parquet(folder / kind / f"{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {kind}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def run(folder: Path, hub: Path, checkout: Path, options: list[str], *, ours: bool) -> dict[str, tuple[str, str]]:
    """Run the tests; return what came of each, and the last line of the error."""
    package = folder / ("ours" if ours else "theirs") / "tests"
    package.mkdir(parents=True)
    for name in FILES:
        if not (checkout / "tests" / name).is_file():
            continue
        text = (checkout / "tests" / name).read_text().replace(f'"{HUB}/', f'"{hub}/')
        if ours and name == FILES[-1]:
            if IMPORT not in text:
                raise SystemExit(f"{name} does not hold the line {IMPORT!r}; this checkout needs another replacement.")
            text = text.replace(IMPORT, OURS)
        (package / name).write_text(text)
    report = package.parent / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ}
    subprocess.run([*command, str(package / FILES[-1])], cwd=package.parent, env=environment, check=False)
    return {name: outcome for case in ET.parse(report).iter("testcase") for name, outcome in [outcome_of(case)]}


def outcome_of(case: ET.Element) -> tuple[str, tuple[str, str]]:
    """Return a test's name, what came of it, and why."""
    without_paths = re.sub(r"/[^ \]]*/", "", case.get("name", ""))
    name = f"{case.get('classname', '').rpartition('.')[2]}::{without_paths}"
    bad = next((child for kind in ("failure", "error") for child in case.findall(kind)), None)
    if bad is None:
        return name, ("passed" if case.find("skipped") is None else "skipped", "")
    message = re.sub(r"/[^ ']*/", "", bad.get("message", "")).splitlines()[0]
    return name, ("refused" if "dgpo.errors." in bad.get("message", "") + (bad.text or "") else "failed", message)


def main() -> None:
    """Make what the tests need, run them twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of TRL")
    parser.add_argument("--save", type=Path, help="write the outcomes as JSON")
    arguments, options = parser.parse_known_args()
    source = arguments.checkout / "tests" / FILES[-1]
    if not source.is_file():
        parser.error(f"{source} does not exist: name a checkout of TRL")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hub = folder / HUB
        make_models(set(re.findall(rf'"{HUB}/(tiny-[^"]+)"', source.read_text())), hub)
        make_data(hub / "zen")
        theirs, ours = (run(folder, hub, arguments.checkout, options, ours=ours) for ours in (False, True))
    compared = {name: ours[name] for name, (outcome, _) in theirs.items() if outcome == "passed"}
    if arguments.save:
        arguments.save.write_text(json.dumps({"theirs": theirs, "ours": ours}, indent=1) + "\n")
    print(f"\nWith TRL's trainer: {dict(Counter(outcome for outcome, _ in theirs.values()))}")
    print(f"Of those that pass, with ours: {dict(Counter(outcome for outcome, _ in compared.values()))}")
    by_reason = defaultdict(list)
    for name, (outcome, reason) in compared.items():
        if outcome != "passed":
            by_reason[outcome, reason].append(name)
    for (outcome, reason), names in sorted(by_reason.items()):
        print(f"\n{outcome}: {reason}", *(f"  {name}" for name in names), sep="\n")


if __name__ == "__main__":
    main()

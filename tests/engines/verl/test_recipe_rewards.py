"""recipes/verl: verl reads the data that `dgpo verl-data` writes, and its reward manager scores as DAPO does."""

import asyncio

import numpy as np
import pytest
import torch


def test_verls_dataset_reads_what_verl_data_writes(compose, tmp_path) -> None:
    from transformers import AutoTokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from dgpo.lab.cli.main import main

    files = []
    for name, problem in (("dapo-math-17k", "1 + 1"), ("aime24", "2 + 2"), ("aime25", "3 + 3")):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"problem,answer\n{problem},7\n")
        files += [f"--{name}", str(path)]
    assert main(["verl-data", str(tmp_path), *files]) == 0
    config = compose("math", "data.filter_overlong_prompts_workers=1", f"+data.cache_dir={tmp_path / 'cache'}")
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    held_out = RLHFDataset(config.data.val_files, tokenizer, config.data)
    assert [held_out[row]["data_source"] for row in range(len(held_out))] == ["aime24", "aime25"]
    (row,) = RLHFDataset(config.data.train_files, tokenizer, config.data)
    assert "\n\n1 + 1\n\n" in row["raw_prompt"][0]["content"]
    assert row["reward_model"]["ground_truth"] == "7"


@pytest.mark.parametrize(
    ("last", "length", "reward", "acc"),
    [
        ("Answer: 34", 100, 1.0, True),
        ("Answer: 35", 100, 0.0, False),
        ("\\boxed{34}", 100, 1.0, True),
        ("34", 100, 0.0, False),  # no answer was given, a number is not one
        ("Answer: 34", 8192 - 1638, 1.0, True),
        ("Answer: 34", 8192 - 819, 0.75, True),  # half of the buffer, half of a factor of 0.5
        ("Answer: 34", 8192, 0.5, True),
        ("Answer: 35", 8192, -0.5, False),
    ],
)
def test_reward_and_overlong_penalty_through_verls_manager(compose, last, length, reward, acc) -> None:
    result = scored(compose, last, length)
    assert float(result["reward_score"]) == pytest.approx(reward)
    # What dynamic sampling and the evaluation go by is without the penalty.
    assert result["reward_extra_info"]["acc"] is acc


def test_the_advantages_are_those_of_dapos_rewards(compose) -> None:
    """DAPO: 1 or -1, and a penalty of up to 1. Ours is half of that plus a half, which no advantage depends on."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    group = [("Answer: 34", 100, 1.0), ("Answer: 34", 8192 - 819, 0.5), ("Answer: 34", 8192, 0.0)]
    group += [("Answer: 35", 100, -1.0), ("Answer: 35", 8192, -2.0)]
    ours = [float(scored(compose, last, length)["reward_score"]) for last, length, _ in group]

    def advantages(rewards):
        return get_adv_estimator_fn("grpo")(
            token_level_rewards=torch.tensor(rewards)[:, None],
            response_mask=torch.ones(len(rewards), 1),
            index=np.zeros(len(rewards), dtype=int),
        )[0]

    torch.testing.assert_close(advantages(ours), advantages([dapo for *_, dapo in group]), atol=1e-5, rtol=1e-5)


def scored(compose, last: str, length: int) -> dict:
    """What verl's reward manager makes of a completion of so many tokens that ends like this; 34 is right."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    from verl import DataProto
    from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls

    vocabulary = {"<pad>": 0, "so\n": 1, last: 2}
    three_tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    three_tokens.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=three_tokens, pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    ids = torch.tensor([[1] * (length - 1) + [2]])
    row = {
        "data_source": "math_dapo",
        "reward_model": {"ground_truth": "34", "style": "rule"},
        "extra_info": {"index": "0", "split": "train", "problem": ""},
    }
    data = DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
        non_tensors={name: np.array([value], dtype=object) for name, value in row.items()},
    )
    config = compose("math", "scale=7b")

    async def score() -> dict:
        manager = resolve_reward_manager_cls(config)(config, tokenizer, get_custom_reward_fn(config))
        return await manager.run_single(data)

    return asyncio.run(score())

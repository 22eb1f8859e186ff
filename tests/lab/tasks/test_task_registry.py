"""Tasks by name: the forks task, and what is refused with the nearest valid name."""

import pytest

from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards import exact_match_reward
from dgpo.lab.tasks import Task, load_task
from dgpo.lab.tasks.forks import forks_reward


def test_forks() -> None:
    task = load_task("forks", seed=3, size=50)
    assert isinstance(task, Task)
    assert task.name == "forks"
    assert task.reward_funcs == (forks_reward,)
    assert task.train_dataset.column_names == task.eval_dataset.column_names == ["prompt", "answer"]
    assert (task.train_dataset.num_rows, task.eval_dataset.num_rows) == (50, 256)
    assert task.metadata == {"num_forks": 4, "correctness": 0.5, "size": 50, "eval_size": 256}
    prompt, answer = task.train_dataset[0].values()
    pairs = [pair.split() for pair in prompt.removesuffix(" ?").split(" | ")]
    assert answer.split() == [max(pair) for pair in pairs]
    assert len(pairs) == 4


@pytest.mark.parametrize("num_forks", [1, 2, 3, 4])
def test_forks_never_share_a_prompt_between_training_and_held_out_whatever_the_seeds(num_forks) -> None:
    train, held_out = set(), set()
    for seed in range(4):
        task = load_task("forks", seed=seed, num_forks=num_forks, size=500, eval_size=9)
        assert len(set(task.eval_dataset["prompt"])) == 9
        train |= set(task.train_dataset["prompt"])
        held_out |= set(task.eval_dataset["prompt"])
    assert not train & held_out


def test_the_same_seed_gives_the_same_prompts() -> None:
    first, again, other = (load_task("forks", seed=seed, size=20, eval_size=20) for seed in (0, 0, 1))
    assert first.train_dataset["prompt"][:] == again.train_dataset["prompt"][:] != other.train_dataset["prompt"][:]
    assert first.eval_dataset["prompt"][:] == again.eval_dataset["prompt"][:] != other.eval_dataset["prompt"][:]


def test_no_held_out_prompts_are_no_data_set() -> None:
    assert load_task("forks", eval_size=0, size=4).eval_dataset is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_forks": 0}, "num_forks is 0"),
        ({"num_forks": "4"}, "num_forks is '4'"),
        ({"size": -1}, "size is -1"),
        ({"eval_size": -1}, "eval_size is -1"),
        ({"eval_size": 10, "num_forks": 1}, "only 9 prompts are held out"),
        ({"num_fork": 4}, r"no option 'num_fork'\. Did you mean 'num_forks'"),
        ({"trust_remote_code": True}, r"no option 'trust_remote_code'.*Its options are: correctness, num_forks, size"),
    ],
)
def test_options_of_forks_are_checked(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task("forks", **options)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("forsk", "forks"),
        ("Forks", "forks"),
        ("chain_sum", "reasoning_gym:chain_sum"),
        ("reasoning-gym:chain_sum", "reasoning_gym:chain_sum"),
        ("reasoninggym:chian_sum", "reasoning_gym:chain_sum"),
        ("reasoning_gym/chain_sum:x:y", None),
        ("", None),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest(name, nearest) -> None:
    with pytest.raises(ConfigError, match="there is no task") as caught:
        load_task(name)
    assert (f"Did you mean '{nearest}'?" in str(caught.value)) == (nearest is not None)
    assert "owner/name" in str(caught.value)


def test_rewards_are_chosen_by_name_in_order() -> None:
    task = load_task("forks", size=4, rewards=["exact_match", "task"])
    assert task.reward_funcs == (exact_match_reward, forks_reward)
    assert load_task("forks", size=4, rewards="task").reward_funcs == (forks_reward,)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["last_numbr"], r"no reward 'last_numbr'\. Did you mean 'last_number'.*exact_match, .*task"),
        ([], "rewards is empty"),
        (["task", "task"], "names one scorer twice"),
    ],
)
def test_wrong_rewards_are_refused(rewards, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task("forks", rewards=rewards)


def test_a_reward_that_can_read_no_gold_answer_is_refused() -> None:
    with pytest.raises(DataError, match=r"last_number can read none of its gold answers, such as '\d \d \d \d'"):
        load_task("forks", rewards=["last_number"])

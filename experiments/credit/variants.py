"""The variants of the task: what makes credit assignment hard in each, and which model they start from."""

from dataclasses import dataclass

from experiments.credit.layout import Layout


@dataclass(frozen=True)
class WarmUp:
    """What decides the weights that training starts from.

    Attributes:
        layout: Of the demonstrations.
        correctness: Probability that a demonstration picks the larger digit of a pair.
        steps: Updates.
        batch_size: Demonstrations per update.
        learning_rate: The peak.
        hidden_size: Width of the model.
        habit_steps: Updates that then teach the policy, but not its reference, another habit.
    """

    layout: Layout
    correctness: float = 0.5
    steps: int = 250
    batch_size: int = 32
    learning_rate: float = 1e-2
    hidden_size: int = 32
    habit_steps: int = 0


@dataclass(frozen=True)
class Variant:
    """One setting in which rules are compared.

    Attributes:
        why: What it is there for, in a sentence.
        warm_up: The model.
        num_prompts: Prompts per rollout.
        num_generations: Completions per prompt, G.
        num_rollouts: Rollouts in all.
        num_updates: Updates per rollout; above 1 the later ones are off-policy and the clip takes part.
        learning_rate: At the start; it falls linearly to 0.
        clip_high: Upper clip width of the loss; the lower one is 0.2.
    """

    why: str
    warm_up: WarmUp
    num_prompts: int = 4
    num_generations: int = 8
    num_rollouts: int = 120
    num_updates: int = 1
    learning_rate: float = 1e-3
    clip_high: float = 0.2


_FOUR = WarmUp(Layout(4))
VARIANTS: dict[str, Variant] = {
    "small groups": Variant("two prompts of four completions a rollout", _FOUR, 2, 4, num_rollouts=160),
    "habit": Variant(
        "a style word that policy and reference are sure of, a different one each: large d, no entropy, no effect",
        WarmUp(Layout(4, habit=True), habit_steps=60),
        num_rollouts=80,
    ),
    "sparse": Variant(
        "demonstrations that are right 3 times in 10: a completion is right by chance 1 time in 123",
        WarmUp(Layout(4), correctness=0.3),
        num_rollouts=120,
    ),
    "off-policy": Variant(
        "four updates per rollout, of which three are off-policy and clipped",
        _FOUR,
        num_rollouts=40,
        num_updates=4,
    ),
    "four forks": Variant("the task as it is", _FOUR, num_rollouts=80),
    "six forks": Variant(
        "more forks: a completion is right by chance 1 time in 64", WarmUp(Layout(6)), num_rollouts=80
    ),
    "long filler": Variant(
        "four style words before each pair: most of the credit goes to tokens that cause nothing",
        WarmUp(Layout(4, num_fillers=4)),
        num_rollouts=80,
    ),
}
REDUCED = Variant(
    "a few updates, to see that everything runs",
    WarmUp(Layout(1), steps=120, batch_size=16, hidden_size=16),
    num_prompts=2,
    num_generations=4,
    num_rollouts=4,
)

"""`DGPOTrainer` with vLLM in its process: credit, loss and what is sampled from, against plain recomputation."""

import math

import pytest
import torch
import trl.generation.vllm_generation as generation
from support import WORDS, lora, make_trainer, parameters
from transformers import AutoModelForCausalLM

from dgpo import DGPOTrainer

MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
SYNCED = 1e-4
"""Nats between sampler and policy in float32; of weights that are one update old there are .06."""


class Spy(DGPOTrainer):
    """Keeps what each loss was computed from, with the policy's weights at that moment, and every completion."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen, self.completions = [], []

    def _compute_loss(self, model, inputs):
        policy = self.accelerator.unwrap_model(model)
        state = {name: value.detach().clone() for name, value in policy.state_dict().items()}
        loss = super()._compute_loss(model, inputs)
        self.seen.append({"inputs": dict(inputs), "state": state, "loss": loss.item()})
        return loss

    def _generate_single_turn(self, prompt_ids, *args, **options):
        found = super()._generate_single_turn(prompt_ids, *args, **options)
        self.completions.append(found[0])
        return found


class Replay(Spy):
    """Takes the completions of another run in place of its own."""

    def _generate_single_turn(self, prompt_ids, *args, **options):
        return self.replayed.pop(0), None


@pytest.fixture(scope="module")
def engine():
    """vLLM's engine, made once: that takes half a minute. Each trainer pushes its weights before it samples."""
    made, real = [], generation.LLM

    def cached(**options):
        if not made:
            made.append(real(**options, enforce_eager=True, dtype="float32"))
        return made[0]

    generation.LLM = cached
    yield
    generation.LLM = real


@pytest.fixture
def train(engine, checkpoint, tmp_path):
    def trained(kind=Spy, resume=None, **options):
        vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 48}
        trainer = make_trainer(kind, checkpoint, tmp_path / "run", **vllm, **{"max_steps": 3, **options})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


def log_probabilities(checkpoint, state, inputs, temperature):
    """(B, T, V) in float64, of the weights at some moment."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if state is not None:
        model.load_state_dict(state)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        logits = model.double()(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def plain_loss(trainer, checkpoint, step, credited):
    """DGPO's loss from its equations, with TRL's correction for what vLLM sampled; `credited` gives the weights."""
    args, inputs = trainer.args, step["inputs"]
    mask = inputs["completion_mask"].bool()
    log_p, log_q, log_now = (
        log_probabilities(checkpoint, state, inputs, args.temperature)
        for state in (credited["state"], None, step["state"])
    )
    d = 0.5 * ((0.5 * log_p).exp() - (0.5 * log_q).exp()).square().sum(-1)
    h = -(log_p.exp() * log_p).sum(-1) / math.log(len(WORDS))
    scores = (d * h**args.kappa / args.tau).masked_fill(~mask, -torch.inf)
    advantages = scores.softmax(-1) * mask.sum(-1, keepdim=True) * inputs["advantages"][:, None]
    logps = log_now.gather(-1, inputs["completion_ids"][..., None])[..., 0]
    ratio = (logps - inputs["old_per_token_logps"]).exp()
    losses = -torch.min(ratio * advantages, ratio.clamp(1 - trainer.epsilon_low, 1 + trainer.epsilon_high) * advantages)
    if args.vllm_importance_sampling_correction:
        losses = losses * correction(args, inputs, mask)
    return ((losses * mask).sum() / inputs["num_items_in_batch"]).item(), d[mask].max().item()


def correction(args, inputs, mask):
    """The four modes, from the log-probabilities of sampler and policy."""
    difference = (inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]).masked_fill(~mask, 0)
    if args.vllm_importance_sampling_mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio, largest = difference.exp(), args.vllm_importance_sampling_clip_max
    truncates = args.vllm_importance_sampling_mode.endswith("truncate")
    return ratio.clamp(max=largest) if truncates else ratio * (ratio <= largest)


def is_synced(trainer) -> bool:
    name = "sampling/sampling_logp_difference/max"
    found = [step[name] for step in trainer.recorder.steps if name in step]
    return len(found) == len(trainer.completions) and max(found) < SYNCED


@pytest.mark.parametrize("policy", ["current", "old"])
@pytest.mark.parametrize("mode", MODES)
def test_the_loss_is_that_of_the_equations(train, checkpoint, mode, policy):
    updates = 2 if policy == "old" else 1
    # An odd temperature, and a bound within the ratios, so that every mode does something.
    options = {"vllm_importance_sampling_mode": mode, "credit_policy": policy, "num_iterations": updates}
    trainer = train(**options, max_steps=4, tau=0.02, temperature=0.9, vllm_importance_sampling_clip_max=1.0)
    assert len(trainer.seen) == 4
    distances = []
    for number, step in enumerate(trainer.seen):
        credited = trainer.seen[number - number % updates]  # the policy that sampled
        expected, distance = plain_loss(trainer, checkpoint, step, credited)
        assert step["loss"] == pytest.approx(expected, abs=2e-6), number
        distances.append(distance)
    assert distances[-1] > 1e-3
    assert is_synced(trainer)


def test_with_the_same_completions_vllm_changes_nothing(train, checkpoint, tmp_path):
    trained = train(vllm_importance_sampling_correction=False, tau=0.02)
    replay = make_trainer(Replay, checkpoint, tmp_path / "replay", max_steps=3, tau=0.02)
    replay.replayed = [list(batch) for batch in trained.completions]
    replay.train()
    for one, other in zip(trained.seen, replay.seen, strict=True):
        # TRL shuffles them, by a random state that vLLM has drawn from.
        assert sorted(one["inputs"]["completion_ids"].tolist()) == sorted(other["inputs"]["completion_ids"].tolist())
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-7)
    torch.testing.assert_close(parameters(trained), parameters(replay), rtol=0, atol=1e-6)


def test_a_resumed_run_ends_with_the_same_parameters(train, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(**options)
    resumed = train(**options, resume=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.completions == whole.completions[2:]
    assert torch.equal(parameters(resumed), parameters(whole))


def test_an_adapter_is_pushed_merged_and_the_reference_stays(train, checkpoint):
    trainer = train(peft_config=lora(), learning_rate=0.5, max_steps=6)
    assert is_synced(trainer)
    assert trainer.recorder.steps[-1]["dgpo/hellinger_sq/max"] > 1e-6
    before = dict(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).named_parameters())
    for name, parameter in trainer.model.named_parameters():
        if ".base_layer." in name:  # merged, unmerged and put back six times
            first = before[name.replace("base_model.model.", "").replace(".base_layer", "")]
            assert torch.equal(parameter, first)

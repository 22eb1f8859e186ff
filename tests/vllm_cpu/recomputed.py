"""DGPO's loss from its equations, for the tests of vLLM in the trainer's process and in a server."""

import math

import torch
from support import WORDS
from transformers import AutoModelForCausalLM

from dgpo import DGPOTrainer

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

"""Random calls of the core and recipes, each from a seed: what may come is an answer or one message.

The tests beside this file make a few hundred of each. `make fuzz` makes 200,000 calls, 10,000 recipes and 2,000 files.
"""

import math
import random
from pathlib import Path

import torch

from dgpo.core import (
    aggregate_loss,
    clipped_policy_loss,
    group_advantages,
    hindsight_advantages,
    redistribution_weights,
)
from dgpo.core import weights as rules
from dgpo.errors import DgpoError
from dgpo.lab import yaml12
from dgpo.lab.train import validate
from dgpo.lab.train.recipe import parse_recipe, raise_problems

# ------------------------------------------------------------------------------------------------------- the core

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ODD = (0.0, -0.0, 1e-45, 1e-30, 1e-4, 1.0, 7e4, 1e30, 3e38, math.inf, -math.inf, math.nan)
OPTIONS = (0, -1, 1e-320, 1e-50, 1e-3, 0.25, 1.0, 2.0, 1e30, 1e300, math.inf, math.nan, "x", None, True)


def tensor(draw: random.Random, *shape: int, odd: float, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    """Numbers of any dtype, a share of them odd ones."""
    count = math.prod(shape)
    values = [draw.choice(ODD) if draw.random() < odd else draw.uniform(low, high) for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64).view(shape).to(draw.choice(DTYPES))


def core_call(seed: int) -> str:
    """Make one call of the core, and check what came: `"refused"`, `"finite"` or `"not finite"`.

    Shapes are right or refused; nothing off the mask; rubbish off the mask changes no bit; finite input in range gives
    finite numbers; weights have mean 1.
    """
    draw = random.Random(seed)
    B, T, odd = draw.choice((0, 1, 2, 4)), draw.choice((0, 1, 3, 5)), draw.choice((0.0, 0.0, 0.1, 0.5))
    mask = torch.tensor([draw.random() < 0.7 for _ in range(B * T)], dtype=torch.bool).view(B, T)
    option = draw.choice(OPTIONS) if draw.random() < 0.3 else draw.choice((0.1, 0.5, 0.9))
    values, others = (tensor(draw, B, T, odd=odd) for _ in range(2))
    advantages, group = tensor(draw, B, odd=odd / 2), torch.tensor([draw.randrange(-2, 2) for _ in range(B)]).long()
    if draw.random() < 0.05:
        advantages = advantages[:1]
    kind = draw.choice(sorted(_CALLS))
    try:
        result = _CALLS[kind](values, others, mask, advantages, group, option)
    except (ValueError, TypeError):
        return "refused"
    if kind in ("advantages", "loss"):
        return "finite" if bool(result.isfinite().all()) else "not finite"
    assert result.shape == mask.shape, kind
    assert bool((result[~mask] == 0).all()), f"{kind} off the mask"
    rubbish = (torch.where(mask, x, torch.tensor(draw.choice(ODD), dtype=x.dtype)) for x in (values, others))
    again = _CALLS[kind](*rubbish, mask, advantages, group, option)
    assert torch.equal(result.nan_to_num(7.0), again.nan_to_num(7.0)), f"{kind} reads what is off the mask"
    if odd == 0.0:
        assert bool(result.isfinite().all()), f"{kind} of ordinary numbers"
    if kind in ("softmax", "floored", "capped", "share") and bool(result.isfinite().all()) and mask.any():
        counts = mask.sum(-1)
        means = (result.double().sum(-1) / counts.clamp(min=1))[counts > 0]
        assert torch.allclose(means, torch.ones_like(means), atol=2e-2), f"{kind}: mean {means}"
    return "finite" if bool(result.isfinite().all()) else "not finite"


def _even(values, mask):
    return redistribution_weights(values, mask, tau=0.5)


_CALLS = {
    "softmax": lambda v, o, m, a, g, x: redistribution_weights(v, m, tau=x),
    "floored": lambda v, o, m, a, g, x: rules.floored_weights(_even(v, m), m, floor=x),
    "capped": lambda v, o, m, a, g, x: rules.capped_weights(_even(v, m), m, cap=x * 4),
    "one-sided": lambda v, o, m, a, g, x: rules.one_sided_weights(_even(v, m), m, a, positive=bool(len(g) % 2)),
    "share": lambda v, o, m, a, g, x: rules.effective_share_weights(v, m, effective_share=x),
    "top": lambda v, o, m, a, g, x: rules.top_entropy_weights(v.abs(), m, fraction=x),
    "gtpo": lambda v, o, m, a, g, x: rules.group_entropy_weights(v.abs(), m, a, group=g, bonus=x),
    "fipo": lambda v, o, m, a, g, x: rules.future_kl_weights(v, o, m, gamma=x),
    "hindsight": lambda v, o, m, a, g, x: hindsight_advantages(a, v, o.abs(), m, a.abs(), mix=x),
    "clipped": lambda v, o, m, a, g, x: clipped_policy_loss(v, o, a, epsilon_low=x, completion_mask=m),
    "advantages": lambda v, o, m, a, g, x: group_advantages(a, 2, eps=x, scale=("group", "batch", "none")[len(m) % 3]),
    "loss": lambda v, o, m, a, g, x: aggregate_loss(v, m, normalizer=x),
}

# --------------------------------------------------------------------------------------------------------- recipes

SCALARS = [
    *(
        "1",
        "-1",
        "0",
        "0.5",
        "1e-4",
        "1e999",
        "-.inf",
        ".nan",
        "true",
        "no",
        "null",
        "~",
        "''",
        '""',
        "text",
        "[]",
        "{}",
    ),
    *("[a, b]", "[1, 2]", "{a: 1}", "{a: {b: [1]}}", "[[[]]]", "1e3", "010", "0x1F", "1_000", "2024-01-01", "12:30"),
    *("!!int x", "!!float ''", "!!python/name:os.system", "!!binary aGk=", "!!set {a}", "&a [*a]", "*b", "&c x"),
    *(
        "'[/b]'",
        '"\\e]52;c;AA\\a"',
        '"\\u202e"',
        '"\\ud800"',
        "9" * 30,
        "9" * 5000,
        "x" * 5000,
        "[" * 60,
        "- - -",
        "? x",
    ),
    *(
        "forks",
        "reasoning_gym:chain_sum",
        "owner/name",
        "/none/x.jsonl",
        "x.jsonl",
        "a:b",
        "a.py:b",
        "none.json",
        "dgpo",
    ),
    *("{token: short}", "{trust_remote_code: true}", "https://a:b@c", "[math]", "%", "@x", "`x`", "{", "]", "|", ">"),
]
RUBBISH = [
    "\t",
    "\0",
    "\ufeff",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "a: b: c\n",
    "- a\n",
    "# c\n",
    "<<: 5\n",
    "? [a]\n: 1\n",
]


def recipe_text(seed: int, schema: dict) -> str:
    """A recipe of random fields and values, half of them the field's default, some of the lines rubbish."""
    names = list(schema)
    draw = random.Random(seed)
    head = "task: forks\nmodel_name_or_path: forks\nbf16: false\n" if draw.random() < 0.7 else ""
    lines = []
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        name = _name(draw, names)
        if name in schema and draw.random() < 0.5:
            lines.append(yaml12.dump_values({name: schema[name].default}))
        else:
            lines.append(f"{name}: {draw.choice(SCALARS)}\n")
    lines += [draw.choice(RUBBISH) for _ in range(draw.random() < 0.15)]
    draw.shuffle(lines)
    text = head + "".join(lines)
    if draw.random() < 0.05:
        cut = draw.randrange(len(text))
        text = text[:cut] + chr(draw.randrange(0x300)) + text[cut + draw.randrange(3) :]
    return text


def _name(draw: random.Random, names: list[str]) -> str:
    name = draw.choice(names)
    return name if draw.random() < 0.95 else name[: draw.randrange(1, len(name) + 1)] + draw.choice(("", "x", "[/b]"))


def recipe_run(seed: int, path: Path, schema: dict) -> str:
    """Read a random recipe up to its configuration: `"accepted"` or `"refused"`, in one bounded message."""
    from dgpo.lab.train.assemble import build_config
    from dgpo.lab.train.plan import describe_plan

    path.write_bytes(recipe_text(seed, schema).encode("utf-8", "surrogatepass"))
    draw = random.Random(-seed)
    overrides = [f"--{_name(draw, list(schema))}={draw.choice(SCALARS)}"] if draw.random() < 0.3 else []
    try:
        recipe = parse_recipe(path, overrides, schema)
        raise_problems(recipe.problems + validate.check_recipe(recipe) + validate.check_device(recipe))
        config = build_config(recipe, path.parent / "run")
        if seed % 20 == 0:
            describe_plan(recipe, config, path.parent / "run", full=True)
    except DgpoError as error:
        message = str(error)
    else:
        message = ""
    assert len(message) < 20_000
    return "refused" if message else "accepted"

"""The likeliest tokens at the places of largest score, taken while the heads' weights are there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgpo.credit_log.collect import MAX_PLACES, NUM_ALTERNATIVES
from dgpo.engines.trl.heads import HeadView


@dataclass(frozen=True)
class LikeliestTokens:
    """The likeliest tokens at some places of one completion, on its device.

    Attributes:
        row: Of the completion, in its batch.
        positions: (n,) int64, places among its scored tokens.
        top: By model, `"policy"` and `"reference"`: probabilities and ids, both (n, k).
    """

    row: int
    positions: Tensor
    top: dict[str, tuple[Tensor, Tensor]]


class LikeliestObserver:
    """Looks at a pass over the heads, whose parts come one after another, for some of its completions.

    Args:
        scored: (B, T) bool, True where a token is scored, of all parts together.
        rows: Rows of `scored` whose tokens are looked at.
        kappa: Exponent of the gate, which decides which tokens have the largest scores.
        share: Of the tokens of a completion that are looked at; each costs a product with the heads.
    """

    def __init__(self, scored: Tensor, rows: Sequence[int], kappa: float, *, share: float = 1.0) -> None:
        lengths = scored.sum(-1).tolist()
        ends = torch.tensor(lengths).cumsum(0).tolist()
        self._spans = {row: (ends[row] - lengths[row], ends[row]) for row in rows}
        self._kappa, self._share, self._offset = kappa, share, 0
        self.found = list[LikeliestTokens]()

    def __call__(self, view: HeadView) -> None:
        """Look at one part."""
        first, count = self._offset, len(view.stats.logps)
        self._offset += count
        # The order of the scores; log V does not change it. Without a reference, that of the entropies.
        order = view.stats.entropy.detach().clamp(min=0.0) ** self._kappa
        if view.stats.hellinger_sq is not None:
            order = view.stats.hellinger_sq * order
        chosen: dict[int, Tensor] = {}
        for row, (start, end) in self._spans.items():
            if first <= start < end <= first + count:
                count_here = min(MAX_PLACES, max(1, int(self._share * (end - start))))
                chosen[row] = order[start - first : end - first].topk(count_here).indices
        if not chosen:
            return
        # One call for all of them: each reads the whole weight of the head.
        places = [inside + (self._spans[row][0] - first) for row, inside in chosen.items()]
        tops = view.top_tokens(torch.cat(places), NUM_ALTERNATIVES)
        sizes = [len(inside) for inside in chosen.values()]
        parts = {who: zip(*(x.split(sizes) for x in top), strict=True) for who, top in tops.items()}
        for row, inside in chosen.items():
            self.found.append(LikeliestTokens(row, inside, {who: next(part) for who, part in parts.items()}))

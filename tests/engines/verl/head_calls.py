"""Counts of what goes through the heads of an engine."""

import torch

from dgpo.engines.verl import heads


class HeadCalls:
    """Counts how often the head's weight was copied for a reference, and how often the head was bypassed."""

    def __init__(self):
        self.copies = self.bypassed = 0
        self._capture, self._bypass = heads.ReferenceHead.capture, heads.HeadHook.bypass

    def __enter__(self):
        def capture(reference, hidden, weight, bias):
            self.copies += reference.needs_weight
            return self._capture(reference, hidden, weight, bias)

        def bypass(hook, function):
            self.bypassed += 1
            return self._bypass(hook, function)

        heads.ReferenceHead.capture, heads.HeadHook.bypass = capture, bypass
        return self

    def __exit__(self, *error):
        heads.ReferenceHead.capture, heads.HeadHook.bypass = self._capture, self._bypass


class TokensScored:
    """Counts the tokens that went through the policy's head with gradient."""

    def __init__(self):
        self.count, self._call = 0, heads.ScoreTokens.__call__

    def __enter__(self):
        def call(scoring, hidden, weight, bias):
            self.count += torch.is_grad_enabled() * len(scoring.targets)
            return self._call(scoring, hidden, weight, bias)

        heads.ScoreTokens.__call__ = call
        return self

    def __exit__(self, *error):
        heads.ScoreTokens.__call__ = self._call

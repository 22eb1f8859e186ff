"""How good is a model: sampling, avg@n, pass@k and maj@k with intervals, paired comparison, protocols by name."""

from dgpo.lab.evaluation.compare import Comparison, compare
from dgpo.lab.evaluation.intervals import Estimate
from dgpo.lab.evaluation.metrics import Sample, pass_at_k, summarize
from dgpo.lab.evaluation.problems import ProblemSet, load_problems
from dgpo.lab.evaluation.protocols import PROTOCOLS, Protocol, get_protocol

__all__ = [
    "PROTOCOLS",
    "Comparison",
    "Estimate",
    "ProblemSet",
    "Protocol",
    "Sample",
    "compare",
    "get_protocol",
    "load_problems",
    "pass_at_k",
    "summarize",
]

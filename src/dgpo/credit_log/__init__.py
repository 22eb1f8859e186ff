"""The per-token record of a run: its format, how it is collected, and token text. It needs no engine."""

from dgpo.credit_log.collect import (
    alternatives_at,
    collect_completion,
    evenly_spread,
    reason_it_ended,
    rows_of_whole_groups,
)
from dgpo.credit_log.reader import read_credit_log
from dgpo.credit_log.record import CompletionCredit, CreditSettings, LoggedStep
from dgpo.credit_log.writer import CreditLog, forget_after

__all__ = [
    "CompletionCredit",
    "CreditLog",
    "CreditSettings",
    "LoggedStep",
    "alternatives_at",
    "collect_completion",
    "evenly_spread",
    "forget_after",
    "read_credit_log",
    "reason_it_ended",
    "rows_of_whole_groups",
]

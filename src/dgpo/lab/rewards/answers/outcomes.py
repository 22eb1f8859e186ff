"""The outcomes that a worker gives; those of a worker that was ended are `verifier.py`'s."""

CORRECT, WRONG, UNPARSEABLE, CRASH, BAD_GOLD = "correct", "wrong", "unparseable", "crash", "unparseable_gold"

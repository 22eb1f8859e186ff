"""Exams on the hub by short names."""

from typing import NamedTuple


class HubTask(NamedTuple):
    """Where an exam lies.

    Attributes:
        hub_id: The data set.
        config: Its configuration.
        split: The split.
    """

    hub_id: str
    config: str | None
    split: str


HUB_TASKS = {
    "aime24": HubTask("HuggingFaceH4/aime_2024", None, "train"),
    "aime25": HubTask("math-ai/aime25", None, "test"),
    "math500": HubTask("HuggingFaceH4/MATH-500", None, "test"),
    "gsm8k": HubTask("openai/gsm8k", "main", "test"),
    "amc23": HubTask("math-ai/amc23", None, "test"),
}
"""Exams by their short names."""

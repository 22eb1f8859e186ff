"""Fields of a batch in verl's TransferQueue, by key."""

import logging
from collections.abc import Sequence
from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta

logger = logging.getLogger(__name__)


def fetch(batch: KVBatchMeta, *names: str, keys: Sequence[str] | None = None) -> TensorDict:
    """Return fields of a batch, or of some of its rows.

    Args:
        batch: verl's.
        *names: Of the fields; those that are not there are left out.
        keys: Of the rows; by default all.

    Returns:
        The fields by name, a row each.
    """
    keys = batch.keys if keys is None else list(keys)
    return tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=list(names))


def store(batch: KVBatchMeta, **fields: Tensor) -> None:
    """Store fields of a batch, a row each."""
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(batch)))


def facts_of(batch: KVBatchMeta, *names: str, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return what is no tensor of each row, by field; without those that verl does not hold.

    Args:
        batch: verl's.
        *names: Of the fields, such as `reward_model`, `extra_info` and `raw_prompt` of the data set.
        keys: Of the rows; by default all.

    Returns:
        A mapping a row.
    """
    keys = batch.keys if keys is None else keys
    facts: list[dict[str, Any]] = [{} for _ in keys]
    for name in names:
        try:
            values = fetch(batch, name, keys=keys).get(name).tolist()  # by [name] it is no stack of values any more
        except Exception:  # a data set or an agent loop without it
            logger.debug("verl holds no %s.", name, exc_info=True)
            continue
        for fact, value in zip(facts, values, strict=True):
            fact[name] = value
    return facts

"""Pieces of text that put together are the text, whatever the tokenizer does with bytes and spaces."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dgpo.credit_log.collect import PER_TOKEN, collect_completion
from dgpo.credit_log.token_text import token_texts


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def byte_level():
    """One token a byte, written as GPT-2 writes bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.fixture(scope="module")
def words():
    """Whole words, which decoding joins by spaces."""
    tokenizer = Tokenizer(models.WordLevel({"pick": 0, "7": 1, "<eos>": 2}, unk_token="pick"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.fixture(scope="module")
def byte_fallback():
    """Words that begin with a mark for a space, and bytes for what is no word (SentencePiece)."""
    vocab = {"<unk>": 0, "▁Hi": 1, "▁there": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    "text", ["plain text, with spaces", "é", "a🙂b", "👩‍👩‍👧 and שלום", "tab\tnew\nline\x00\x1b", ""]
)
def test_byte_level_pieces_are_the_text(byte_level, text):
    ids = byte_level.encode(text)
    pieces = token_texts(byte_level, ids)
    assert "".join(pieces) == decoded(byte_level, ids) == text
    assert len(pieces) == len(ids) == len(text.encode())


def test_a_character_of_several_tokens_stands_at_the_last_of_them(byte_level):
    assert token_texts(byte_level, byte_level.encode("a🙂b")) == ["a", "", "", "", "🙂", "b"]


def test_a_character_that_is_cut_off_is_shown_as_damaged(byte_level):
    ids = byte_level.encode("a🙂")[:-1]
    pieces = token_texts(byte_level, ids)
    assert pieces[:3] == ["a", "", ""]
    assert set(pieces[3]) == {"\ufffd"}


def test_bytes_that_are_no_text_do_not_swallow_what_follows(byte_level):
    ids = [byte_level.convert_tokens_to_ids("ÿ")] * 50 + byte_level.encode("ok")
    pieces = token_texts(byte_level, ids)
    assert pieces[-2:] == ["o", "k"] or "".join(pieces[-2:]).endswith("ok")
    assert len([piece for piece in pieces if piece]) >= 50 // 4


def test_words_keep_the_spaces_between_them(words):
    assert token_texts(words, [0, 1, 0, 2]) == ["pick", " 7", " pick", " <eos>"]


def test_byte_fallback(byte_fallback):
    ids = [1, 2, *(3 + byte for byte in "🙂".encode()), 2]
    pieces = token_texts(byte_fallback, ids)
    assert "".join(pieces) == decoded(byte_fallback, ids) == "Hi there🙂 there"
    assert pieces == ["Hi", " there", "", "", "", "🙂", " there"]


def test_tensors_become_a_completion(words):
    per_token = {name: torch.tensor([0.5, 1.5, 1.0]) for name in PER_TOKEN}
    per_token |= {"logps": torch.tensor([-1.0, -2.0, -3.0]), "ref_logps": torch.tensor([-1.5, -1.0, -3.0])}
    found = collect_completion(
        words,
        torch.tensor([0, 1, 2]),
        per_token,
        vocab_size=3,
        trained=torch.tensor([True, True, False]),
        prompt_ids=[1, 1],
        alternatives={1: {"policy": [(0, 0.9)]}},
    )
    assert found.prompt == "7 7"
    assert found.w == [0.5, 1.5, None]
    assert found.log_ratio == [0.5, -1.0, 0.0]
    assert found.h == pytest.approx([0.5 / 1.0986123, 1.0, 1.0 / 1.0986123])  # H / log 3, at most 1
    assert found.alternatives == {1: {"policy": [("pick", 0.9)]}}
    with pytest.raises(ValueError, match="scores has 2 entries for 3 tokens"):
        collect_completion(words, torch.tensor([0, 1, 2]), {**per_token, "scores": torch.ones(2)}, vocab_size=3)

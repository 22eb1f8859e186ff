"""A small model that knows the answers to the tutorial's questions and mostly keeps silent: what the tests train."""

from pathlib import Path

import torch

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def build_tokenizer(questions, answers):
    """Return a tokenizer of whole words, with a chat template."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<end>", "<user>", "<system>", "<assistant>", "<unknown>"]
    splitter = pre_tokenizers.Split(Regex(r"\s+|(?=\?)"), behavior="removed")
    words = {word for text in questions for word, _ in splitter.pre_tokenize_str(text)} | set(answers)
    vocabulary = {word: index for index, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(folder: Path, rows, *, steps: int = 600, right: float = 0.3) -> Path:
    """Train a small model to give the right answer with about this probability, and return its folder.

    Args:
        folder: Where to save it.
        rows: Pairs of question and answer.
        steps: Of the supervised training.
        right: Probability of the right answer; otherwise it says nothing.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    questions, answers = zip(*rows, strict=True)
    tokenizer = build_tokenizer(questions, answers)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]
    prompts = torch.tensor(prompts)  # all of one length: the questions differ in their numbers alone
    golds = torch.tensor(tokenizer.convert_tokens_to_ids(list(answers)))
    end = torch.full_like(golds, tokenizer.eos_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    ids = torch.cat([prompts, golds[:, None]], dim=1)
    silence = tokenizer.eos_token_id
    for step in range(steps):
        said, ended = model(input_ids=ids).logits[:, -2:].log_softmax(-1).unbind(1)
        share = right if step >= 0.8 * steps else 1.0  # first what is right, then to keep silent
        answered = said.gather(1, golds[:, None]).mean()
        loss = -share * answered - (1 - share) * said[:, silence].mean()
        loss = loss + torch.nn.functional.cross_entropy(ended, end)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""What a first user gets wrong, and the line that says so: exit 2, no traceback, nothing written."""

# The lines are whole, as users get them.
# ruff: noqa: E501

import shlex

import pytest

from dgpo.lab.cli.main import main

pytestmark = pytest.mark.usefixtures("few_packages")

CASES = [
    ("trian own.yaml", "there is no command 'trian'. Did you mean 'dgpo train'?"),
    ("own.yaml", "there is no command 'own.yaml'. Did you mean `dgpo train own.yaml`?"),
    ("train --resume", "--resume needs the directory of the run: `dgpo train --resume RUN_DIR`."),
    ("train onw.yaml", "There is no recipe at onw.yaml. Did you mean 'own.yaml'?"),
    ("train own.yaml --learing_rate 1e-4", "command line: unknown key 'learing_rate'. Did you mean 'learning_rate'?"),
    ("train own.yaml --lr 1e-4", "command line: unknown key 'lr'. Did you mean 'learning_rate'?"),
    ("train own.yaml --learning_rate fast", "command line: learning_rate must be a number, got 'fast' (text)"),
    (
        "train own.yaml --num_generations 5",
        "2 things to put right:\n  - num_generations is 5, and the 16 completions of a generation batch (per_device_train_batch_size 16 x gradient_accumulation_steps 1 x 1 process(es)) do not divide by it; choose a batch of 15 or 20, or another num_generations\n  - per_device_eval_batch_size is 4 (x 1 processes), and does not divide by the 5 completions a held-out prompt gets (num_generations_eval, or num_generations where that is not set); set num_generations_eval: 1, or a multiple of 5",
    ),
    (
        "train own.yaml --use_peft true --lora_target_modules '[q_proj, v_prj]'",
        "command line: lora_target_modules names 'v_prj', and model has no such module. Did you mean 'v_proj'? Its modules are: down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj, post_attention_layernorm, q_proj, up_proj, v_proj; or write all-linear.",
    ),
    (
        "train own.yaml --model_name_or_path bare --use_peft true --lora_target_modules '[q_proj]'",
        "The model folder bare has no config.json that can be read: [Errno 2] No such file or directory: 'bare/config.json'.",
    ),
    (
        "train own.yaml --padding_free true",
        "command line: padding_free needs flash attention, which keeps the completions of a pack apart; add `attn_implementation: flash_attention_2` (a GPU), or use sort_by_length in its place",
    ),
    ("train own.yaml --dry_run=5", "--dry-run=5 is not known; write --dry-run or --dry-run=full."),
    ("train own.yaml --bf16 true", "command line: bf16 is on, and there is no GPU here; add `bf16: false`"),
    (
        "train own.yaml --report_to wandbb",
        "command line: report_to names 'wandbb', which is no tracker. Did you mean 'wandb'?",
    ),
    ("train own.yaml --task pair.jsonl", "pair.jsonl does not exist. Did you mean 'pairs.jsonl'? (Looked in <here>.)"),
    (
        "train own.yaml --task columns.jsonl",
        "columns.jsonl has no prompt column and no answer column that is recognised; it has: text, label. Expected one of problem, question, prompt for the prompt and one of answer, final_answer, ground_truth, solution, reward_model.ground_truth for the gold answer; or name yours with prompt_column and answer_column.",
    ),
    (
        "train own.yaml --task blank.jsonl",
        "blank.jsonl: no row can be rewarded; of 1 rows, 1 have no gold answer in 'answer' and 0 no prompt in 'question'.",
    ),
    (
        "train own.yaml --task broken.jsonl",
        "broken.jsonl, line 2: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1). Each line must be one JSON object.",
    ),
    (
        "train own.yaml --task few.jsonl --eval_size 0",
        "There are 3 training prompts, and one sampling takes 4, so that no step could be made. Give more prompts, or sample fewer at once: lower per_device_train_batch_size or gradient_accumulation_steps, or raise num_generations.",
    ),
    (
        "train own.yaml --task few.jsonl --eval_size 0 --num_train_epochs 2",
        "There are 3 training prompts, and one sampling takes 4, so that no step could be made. Give more prompts, or sample fewer at once: lower per_device_train_batch_size or gradient_accumulation_steps, or raise num_generations.",
    ),
    (
        "train own.yaml --eval_size 20",
        "eval_size is 20, but there are only 20 rows; at least one must be left for training.",
    ),
    (
        "train own.yaml --task_args.promt_column question",
        "task pairs.jsonl has no option 'promt_column'. Did you mean 'prompt_column'? Its options are: answer_column, eval_file, prompt_column, prompt_template, system_prompt, chat.",
    ),
    (
        "train own.yaml --task_args.chat no",
        "chat is 'no'; it must be true or false, or left out: the chat template is then used where the model's tokenizer has one.",
    ),
    (
        "train own.yaml --task_args.chat 5",
        "chat is 5; it must be true or false, or left out: the chat template is then used where the model's tokenizer has one.",
    ),
    (
        "train own.yaml --model_name_or_path base --task_args.chat true",
        "chat is true, and the tokenizer of the model has no chat template. Take a model with one (an instruct model), or leave chat out.",
    ),
    (
        "train own.yaml --task_args.prompt_template Question:",
        "prompt_template is {'Question': None}; it must be a text (in quotes, where it looks like a number).",
    ),
    (
        "train own.yaml --max_completion_length 128",
        "command line: max_completion_length is 128, and model holds 128 tokens of prompt and completion; no prompt fits. Lower it below 128.",
    ),
    (
        "train own.yaml --model_name_or_path short",
        "18 of the 18 training prompts are longer than 8 tokens, the longest has 10: short holds 12 tokens, of which max_completion_length takes 4. Set long_prompts: drop to leave them out, or lower max_completion_length.",
    ),
    (
        "train own.yaml --max_prompt_length 8",
        "18 of the 18 training prompts are longer than 8 tokens, the longest has 10: max_prompt_length is 8. Set long_prompts: drop to leave them out, or raise max_prompt_length.",
    ),
    (
        "train own.yaml --model_name_or_path ./modle",
        "model './modle': there is no such folder. Give a folder with config.json and model.safetensors, or a hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'.",
    ),
    (
        "train own.yaml --model_name_or_path padded",
        "The tokenizer of padded gives '[PAD]' the id 98, and the model has embeddings for ids below 98 only. A token was added without resizing the model: call model.resize_token_embeddings(len(tokenizer)) and save both, or set the pad token to one that exists (tokenizer.pad_token = tokenizer.eos_token).",
    ),
    (
        "train own.yaml --model_name_or_path adapter",
        "command line: adapter is an adapter (LoRA) of <here>/model, and a run starts from a whole model. Either continue the run that trained it, `dgpo train --resume . --max_steps N`; or merge it, and name the folder `merged` as model_name_or_path:\n  python -c \"from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; M.from_pretrained('adapter').merge_and_unload().save_pretrained('merged'); T.from_pretrained('<here>/model').save_pretrained('merged')\"",
    ),
    (
        "eval padded --task pairs.jsonl --n 1 --max-tokens 2",
        "The tokenizer of the model gives '[PAD]' the id 98, and the model has embeddings for ids below 98 only. A token was added without resizing the model: call model.resize_token_embeddings(len(tokenizer)) and save both, or set the pad token to one that exists (tokenizer.pad_token = tokenizer.eos_token).",
    ),
    (
        "train own.yaml --rewards '[exact]'",
        "there is no reward 'exact'. Did you mean 'exact_match'? The rewards are: last_number, exact_match, text_match, math, math_boxed, math_answer, math_hashes, math_tag, math_last_number, think_format, think_answer_format, soft_overlong, task; or one of your own, my_rewards.py:function.",
    ),
    (
        "train own.yaml --rewards '[rewards.py]'",
        "there is no reward 'rewards.py'. Name the function in it: rewards.py:function. The rewards are: last_number, exact_match, text_match, math, math_boxed, math_answer, math_hashes, math_tag, math_last_number, think_format, think_answer_format, soft_overlong, task; or one of your own, my_rewards.py:function.",
    ),
    ("train own.yaml --rewards '[rewards.py:scor]'", "rewards.py has no function 'scor'. Did you mean 'score'?"),
    (
        "train own.yaml --rewards '[rewards.py:score]' --reward_options.score.scal 2",
        "the reward rewards.py:score has no option 'scal'. Did you mean 'scale'? Its options are: scale.",
    ),
    (
        "train own.yaml --rewards '[last_number]' --task words.jsonl",
        "words.jsonl: no row can be rewarded; last_number can read none of the 9 gold answers, such as 'yes'. Choose another reward, or another answer_column.",
    ),
    (
        "train own.yaml --rewards '[exact_match, text_match]' --reward_weights '[1]'",
        "command line: reward_weights has 1 numbers, and there are 2 reward functions (exact_match_reward, text_match_reward); give one number for each.",
    ),
    (
        "eval model --task pairs.jsonl --reward exact_match",
        "dgpo eval has no option '--reward'. Did you mean '--rewards'? See `dgpo eval --help`.",
    ),
    (
        "train pairs.jsonl",
        "pairs.jsonl is a file of data, and `dgpo train` takes a recipe: a YAML file with a line `task: pairs.jsonl`.",
    ),
    ("train --resume pairs.jsonl", "There is no run directory pairs.jsonl to resume; check the path."),
    ("train own.yaml --resume model", "model is not a run directory of `dgpo train`: it has no recipe.yaml."),
    (
        "train own.yaml --task model",
        "task 'model' is a folder; name a file in it, such as model/data.jsonl (.jsonl, .json, .csv, .parquet).",
    ),
    ("train own.yaml --max_steps -5", "command line: max_steps is -5, so nothing would be trained; use -1 for epochs"),
    ("train own.yaml --num_train_epochs 0", "command line: num_train_epochs is 0, and must be above 0"),
    ("train own.yaml --seed -1", "command line: seed is -1, and must be from 0 to 2^32 - 1"),
    ("train own.yaml --beta -1", "command line: beta is -1, and must be 0 or more: it weighs a KL penalty"),
    ("train own.yaml --reward_weights '[0]'", "command line: reward_weights are all 0, so nothing would be learned"),
    (
        "train own.yaml --use_vllm true",
        "command line: use_vllm is True, which needs the package vllm, and it is not installed; `pip install vllm`, or leave use_vllm out",
    ),
    (
        "train own.yaml --optim adamw_8bit",
        "command line: optim is adamw_8bit, which needs the package bitsandbytes, and it is not installed; `pip install bitsandbytes`, or optim: adamw_torch",
    ),
    (
        "train own.yaml --attn_implementation flash_attention_2",
        "command line: attn_implementation is flash_attention_2, which needs the package flash-attn, and it is not installed; `pip install flash-attn`, or attn_implementation: sdpa",
    ),
    (
        "train own.yaml --rewards '[rewards.py:Idle]'",
        "the reward rewards.py:Idle is a class without __call__, so that it cannot score; give it one.",
    ),
    (
        "train own.yaml --rewards '[rewards.py:graded]'",
        "the reward graded wants 'grade', and neither TRL nor the data has it. It can get: prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric.",
    ),
    (
        "train own.yaml --model_name_or_path pairs.jsonl",
        "model 'pairs.jsonl' is a file; give the folder that holds config.json and model.safetensors.",
    ),
    (
        "train own.yaml --model_name_or_path weightless",
        "The model weightless has no weights: there is no model.safetensors in weightless. Weights in .bin are pickles, which run code, and are not read.",
    ),
    (
        "train own.yaml --model_name_or_path encoder",
        "The model encoder is a BertModel (architectures in its config.json), which has no head to generate text with; take a causal language model, such as a ...ForCausalLM.",
    ),
    (
        "eval encoder --task pairs.jsonl",
        "The model encoder is a BertModel (architectures in its config.json), which has no head to generate text with; take a causal language model, such as a ...ForCausalLM.",
    ),
    (
        "train own.yaml --task semicolons.csv",
        "semicolons.csv has no prompt column and no answer column that is recognised; it has: question;answer. Columns of a .csv are separated by commas. Expected one of problem, question, prompt for the prompt and one of answer, final_answer, ground_truth, solution, reward_model.ground_truth for the gold answer; or name yours with prompt_column and answer_column.",
    ),
    (
        "train own.yaml --chat_template_kwargs no",
        "command line: chat_template_kwargs must be a mapping (or null), got 'no' (text)",
    ),
    (
        "train own.yaml --generation_kwargs no",
        "command line: generation_kwargs must be a mapping (or null), got 'no' (text)",
    ),
    ("train own.yaml --adam_beta2 2", "command line: adam_beta2 is 2, and must be at least 0 and below 1"),
    (
        "train own.yaml --task https://huggingface.co/datasets/openai/gsm8k",
        "task 'https://huggingface.co/datasets/openai/gsm8k' is an address; a data set of the hub is named by its id: openai/gsm8k.",
    ),
    (
        "train own.yaml --model_name_or_path https://huggingface.co/owner/name",
        "model 'https://huggingface.co/owner/name' is an address; a model of the hub is named by its id: owner/name.",
    ),
    (
        "train own.yaml --output_dir model",
        "The run directory model is not empty. It holds no checkpoint to resume from; delete it, or choose another one with --output_dir.",
    ),
    (
        "train own.yaml --output_dir model --dry-run",
        "The run directory model is not empty. It holds no checkpoint to resume from; delete it, or choose another one with --output_dir.",
    ),
    (
        "train own.yaml --credit_rule rewards.py",
        "There is no credit rule 'rewards.py'. Name the function in it: rewards.py:function. Rules: dgpo, even, entropy, inverse, capped, floored, one_sided, effective_share, top_entropy, gtpo, fipo, hindsight; or one of your own as 'module:function' or 'file.py:function'.",
    ),
    (
        "train own.yaml --credit_rule hindsight --hint way",
        "hint='way' reads the column 'way', and the data set has prompt, answer. Name one of its columns, or use hint='peer', which shows a completion the solution of another one.",
    ),
    (
        "train own.yaml --credit_rule hindsight --num_generations 16 --num_generations_eval 1",
        "hint_control='other', the default, compares with the hint of another prompt, and a rollout has 16 completions, 16 of each. Raise per_device_train_batch_size to 32, or gradient_accumulation_steps to 2; or name a column of hints to compare with; or set hint_control='plain', for a model that was taught to read hints.",
    ),
    (
        "train own.yaml --credit_rule hindsight --hint_template '{hint}'",
        "hint_template='{hint}' makes the hint a whole prompt, and hint_control='other', the default, would compare it with another question. Name a column of prompts to compare with, say the same ones with a wrong hint; or put {prompt} into the template; or set hint_control='plain', for a model that was taught to read hints.",
    ),
    ("tasks forks", "`dgpo tasks` lists all of them, and takes nothing else: 'forks'."),
    ("eval --run nowhere", "nowhere is no directory of a run: it has no recipe.yaml."),
]
"""What is typed, and the line that answers; `<here>` is the working directory."""


@pytest.mark.parametrize(("words", "line"), CASES, ids=[words for words, _ in CASES])
def test_a_mistake_gets_its_line(folder, monkeypatch, capsys, words, line):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert main(shlex.split(words)) == 2
    captured = capsys.readouterr()
    assert captured.err == f"dgpo: {line}\n".replace("<here>", str(folder))
    assert sorted(folder.iterdir()) == before  # nothing was written


_OWN = [words for words, _ in CASES if words.startswith("train own.yaml")]


@pytest.mark.parametrize("words", [words for at, words in enumerate(_OWN) if at % 4 == 0 or "hindsight" in words])
def test_the_dry_run_finds_it_too(folder, monkeypatch, capsys, words):
    monkeypatch.chdir(folder)
    assert main([*shlex.split(words), "--dry-run"]) == 2
    assert capsys.readouterr().err == f"dgpo: {dict(CASES)[words]}\n".replace("<here>", str(folder))

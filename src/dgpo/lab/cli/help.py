"""The longer texts of `--help`. Plain text, so that they appear at once."""

MAIN = """\
dgpo - Distribution-Guided Policy Optimization (arXiv:2605.03327): GRPO whose advantage is redistributed over the
tokens of a completion, towards those where the policy has moved away from its reference while being uncertain.

Commands
  dgpo train RECIPE.yaml [--key value ...]   train a model; `dgpo train --help` explains the knobs
  dgpo eval MODEL --task TASK                measure a model: avg@n, pass@k, maj@k with intervals
  dgpo compare EVAL_A EVAL_B                 is B better than A, and is that more than chance?
  dgpo report RUN [RUN ...]                  a page with the curves of a run and the credit of each token
  dgpo inspect MODEL --reference REF         the same page for any pair of models and any text, without training
  dgpo tasks                                 where prompts and verifiable answers can come from
  dgpo verl-data FOLDER                      DAPO-Math-17k and AIME, or files of your own, as recipes/verl reads them
  dgpo completion bash                       completion of commands, options and files for bash, zsh or tcsh
  dgpo --version

Start here
  dgpo train quickstart             teaches a small model a task in a few minutes, without a download
  dgpo train quickstart --dry-run   says what that would do
"""

TRAIN = """\
A recipe is one flat YAML file: the task, the model, the rewards, and the fields of DGPOConfig (all of TRL's GRPOConfig
and the knobs below). Every field can be overridden on the command line. `quickstart` and `smollm2-chain-sum` are
installed with the package and found by name.

Examples
  dgpo train quickstart
  dgpo train quickstart --tau 0.1 --learning_rate 1e-4 --output_dir runs/sharp
  dgpo train quickstart --task_args.num_forks 6 --bf16 false --lora_target_modules '[q_proj, v_proj]'
  dgpo train quickstart --dry-run                       print what would run, load no model (=full: every field)
  dgpo train --resume runs/quickstart-20260508-120000   continue from the newest complete checkpoint
  accelerate launch -m dgpo.lab.cli.main train RECIPE   several GPUs

DGPO's knobs
  credit_rule            dgpo      the rule that gives the credit: a name, or your own (my_rules.py:rule); even is GRPO
  credit_options         {}        options of the rule, such as {cap: 3.0} of capped
  tau                    0.5       temperature of the redistribution: small concentrates the credit, large gives GRPO
  kappa                  1.0       exponent of the entropy gate: 0 ignores how uncertain the policy is
  credit_policy          current   whose distribution gives the credit: current (being updated) or old (that sampled)
  inert_warning_steps    50        say so once when the weights stayed at 1 (plain GRPO) for so many steps; 0: never
  credit_log_steps       0         log the credit of every token of a few completions every n steps, for `dgpo report`
  credit_log_completions 8         how many completions of such a step

Task and model
  task                             forks, reasoning_gym:<name>, a file, or a hub data set; see `dgpo tasks`
  task_args              {}        options of the task, such as {num_forks: 4}
  rewards                          reward functions, or your own (my_rewards.py:score); the first one is the accuracy
  reward_options         {}        options of rewards by name, such as {score: {scale: 2}}; reward_weights weighs them
  max_prompt_length                longest prompt in tokens; by default what the model holds beside a completion
  long_prompts           refuse    what becomes of longer ones before training: refuse or drop
  eval_size                        held-out prompts; by default the task's own choice, mostly 256
  eval_task                        a task of `dgpo eval` to measure while training; logs eval/avg@k and eval/pass@k
  eval_every             0         steps between two such measurements; 0 for none
  eval_samples           8         completions per problem, the k of the names
  eval_before_and_after  true      measure the accuracy on them before the first and after the last step
  completions_every      1         keep the completions of every n-th logged step; 0 keeps none
  num_threads                      threads of torch on the CPU, one a core by default; 1 is best for tiny models
  model_name_or_path               a folder, a hub id, or forks for the small model of that task
  use_peft               false     LoRA instead of full fine-tuning; lora_r, lora_alpha, lora_target_modules
  dtype                  float32   type of the weights: float32, bfloat16, auto

GRPO's fields used most (TRL's names and defaults)
  num_generations              8        completions a prompt gets; at least 2
  per_device_train_batch_size  8        completions in one forward pass
  gradient_accumulation_steps  1        forward passes before one step
  max_completion_length        512      tokens
  learning_rate                1e-6     LoRA needs about a hundred times more
  lr_scheduler_type            linear   constant, cosine, ...
  max_steps                    -1       optimizer steps; -1 counts epochs instead
  num_train_epochs             3.0
  temperature                  1.0      of the sampling
  loss_type                    dapo     how tokens are averaged: dapo, grpo, bnpo, dr_grpo, cispo, sapo
  epsilon, epsilon_high        0.2      bounds of the clipped ratio
  beta                         0.0      weight of a KL penalty; the method has none
  num_iterations               1        updates made on one sampling
  logging_steps                10       steps between two lines of metrics
  save_steps                   500      steps between two checkpoints; save_total_limit keeps the newest few
  output_dir                            the run directory; by default runs/<recipe>-<date>-<time>
  seed                         42

The run directory
  recipe.yaml  environment.json  metrics.jsonl  completions/  credit/  checkpoint-*/  final/  curve.png
  summary.json

`dgpo train --help-all` lists every field with its type and default. Exit codes: 0 done, 1 the run failed, 2 bad input,
130 interrupted. DGPO_VERBOSE=1 shows the libraries' own messages, DGPO_DEBUG=1 adds tracebacks.
"""

EVAL = """\
Samples n completions per problem, scores them, and gives avg@n, pass@k for every k up to n, and maj@n, each with a
95 % interval that resamples whole problems. Every finished batch is on the disk: the same command after a kill
continues and ends with the same file.

MODEL   a folder, a hub id, or forks for the small model of that task
TASK    aime24 | aime25 | math500 | gsm8k | amc23      data sets of the hub
        path/to/file.jsonl | .json | .csv | .parquet   with a prompt and an answer column; prompt and scorer of training
        owner/dataset:configuration:split              any data set of the hub; likewise
        forks | reasoning_gym:<name>                   the held-out prompts, with the task's own scorer
RUN     the directory of `dgpo train`: its held-out prompts, asked, sampled and scored as it was trained

Protocols set prompt, sampling and extraction together; single values can be changed, and the result says which were.
  dapo        n 32, temperature 1.0, top_p 0.7,  20480 tokens, last line `Answer:`     default of the exams
  lighteval   n 64, temperature 1.0, top_p 1.0,  32768 tokens, boxed, math-verify's search
  open-r1     n 64, temperature 0.6, top_p 0.95, 32768 tokens, boxed, math-verify's search
  plain       n 8,  temperature 1.0, top_p 1.0,   1024 tokens, prompt and scorer of training   default of the rest
"""

EVAL_END = """\
Before and after a run
  dgpo eval --run runs/<run>                      the trained model
  dgpo eval MODEL --run runs/<run>                the model it came from, on the same prompts

Files: settings.json  samples.jsonl  result.json  pass_at_k.png
"""

COMPARE = """\
Compares folders that `dgpo eval` wrote with the first of them: the difference of every metric with the 95 % interval of
a paired bootstrap over problems, a table problem by problem, and a verdict in words. Other problems are refused, fewer
than six problems that differ give no verdict, and maj is left out where the numbers of completions differ.
"""

REPORT = """\
Writes one HTML page that opens from the disk and needs no network: the curves to watch, and the completions of a prompt
side by side, whose tokens are coloured by their weight w (or by the distance d, the entropy h, the score s, the
advantage, the log-ratio, or what a rule logs). Pointing at a token shows its numbers and the likeliest alternatives.
Several runs are laid side by side, with what was set differently; seeds of a setting are drawn as a band. With --serve
the page follows a run while it trains.
"""

REPORT_END = """\
Examples
  dgpo report runs/quickstart
  dgpo report runs/quickstart --serve --open
  dgpo report runs/quickstart --terminal
  dgpo report runs/tau-0.5 runs/tau-0.05 -o sharper.html
"""

INSPECT = """\
Where would DGPO put the credit? Scores a text with two models and writes the page of `dgpo report` for it.

MODEL and REF are folders, folders of adapters (LoRA), hub ids, or forks for the small model of that task; they must
share vocabulary and tokenizer.
"""

INSPECT_END = """\
Examples
  dgpo inspect runs/<run>/final --reference forks --prompt '7 3 | 2 9 | 5 6 | 1 8 ?'    # <run> of `make quickstart`
  dgpo inspect my-rl-model --reference my-sft-model --text solution.txt --tau 0.05
  dgpo inspect my-rl-model --reference my-sft-model --text solution.txt --rule my_rules.py:capped --options.cap 3
  dgpo inspect MODEL --reference MODEL --prompt '17 * 3 = ?' --rule hindsight --hint 51    # what a hint would tell it
"""

VERL_DATA = """\
Writes dapo-math-17k.parquet, aime24.parquet and aime25.parquet for recipes/verl. Repeated prompts are kept once
(DAPO-Math-17k repeats each about a hundred times), and training prompts that hold a problem of the exams are left out.
A source is a file (.jsonl, .json, .csv, .parquet) or a data set of the hub. With --train, train.parquet and val.parquet
are written from data of your own instead.
"""

VERL_DATA_END = """\
Examples
  dgpo verl-data data
  dgpo verl-data data --dapo-math-17k files/dapo.parquet --aime24 files/aime24.jsonl --aime25 files/aime25.jsonl
  dgpo verl-data data --train my.jsonl --val held-out.jsonl
"""

TASKS = """\
What `task:` in a recipe may be; `task_args:` holds the options.

  forks                  embedded: pick the larger digit of each pair; where the decisive tokens are is known.
                         Options: num_forks, correctness, size. Model: forks (made on first use), no download
  reasoning_gym:<name>   procedural tasks with their own scorers, such as reasoning_gym:chain_sum.
                         Options: those of the task, such as max_terms, and size, system_prompt, answer_extraction
  path/to/file           .jsonl, .json, .csv or .parquet with a prompt and an answer column
                         Options: prompt_column, answer_column, system_prompt, prompt_template, eval_file, and
                         chat: false for no chat template (it is used where the model's tokenizer has one)
  owner/dataset          a data set of the hub, such as BytedTsinghua-SIA/DAPO-Math-17k; owner/dataset:configuration
                         Options: those of a file, and split, eval_split in place of eval_file

Rewards (`rewards:`, the first one is the accuracy)
  task                   the task's own
  last_number            the last number, as a decimal         exact_match   the whole completion, as text
  text_match             the same, final stops aside           my_rewards.py:score   a function of your own
  math                   math-verify on the answer: \\boxed{}, else `Answer:`, else ####, else the last number
  math_boxed, math_answer, math_hashes, math_last_number       math-verify on an answer in one of these forms
  think_format           <think>...</think> and an answer      think_answer_format   ... in <answer>...</answer>
  soft_overlong          DAPO's penalty for completions near max_completion_length; give it a weight (reward_weights)
"""

COMPLETION = """\
Prints a script that completes commands, options, the fields of a recipe and files. Put it where your shell reads it:

  dgpo completion bash > ~/.local/share/bash-completion/completions/dgpo
  dgpo completion zsh > "${fpath[1]}/_dgpo"
"""

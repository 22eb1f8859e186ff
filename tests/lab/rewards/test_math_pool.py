"""The verifier under hostile answers, crashes, threads, forks and kills: one score each, and nothing left behind."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from dgpo.errors import RewardError
from dgpo.lab.rewards import checked, compute_score, get_reward, verifier
from dgpo.lab.rewards.math import MathReward, math_boxed_reward
from dgpo.lab.rewards.pool import OUTCOMES, Question, VerifierPool

TOWER = "9^{9^{9^{9}}}"  # asks sympy for a number with more digits than there are atoms
BOMB = "__import__('os').system('touch PWNED')"

# These go on for as long as they may; each ends at the limit.
HANGING = ["9**9**9**9", TOWER, "10000000!"]
# These end by themselves, after a second of processor time at most.
HOSTILE = [
    ("\\sqrt{" * 600 + "2" + "}" * 600, {"unparseable"}),
    ("\\begin{matrix}" * 200, {"unparseable"}),
    ("x" * 3999, {"unparseable"}),
    ("(" * 1500, {"unparseable"}),
    ("{" * 800 + "}" * 800, {"unparseable"}),
    ("-" * 3999, {"unparseable"}),
    ("2^" * 1999 + "2", {"unparseable", "timeout"}),
    ("x" + "!" * 3000, {"unparseable", "wrong"}),
    ("\\frac" * 700, {"unparseable"}),
    ("1," * 1999 + "1", {"wrong"}),
    ("1" * 3999, {"wrong"}),
    ("\\frac{1}{2}" * 90_000, {"unparseable"}),  # 1 MB of LaTeX: longer than any answer
    ("nan", {"wrong"}),
    ("-\\infty", {"wrong"}),
    ("", {"unparseable"}),
    (" \t", {"unparseable"}),
    ("\x00\ud800\udfff", {"unparseable", "wrong"}),
    ("💣", {"unparseable", "wrong"}),
    (BOMB, {"unparseable", "wrong"}),
    ("\\text{" + BOMB + "}", {"unparseable", "wrong"}),
    ("lambda: open('PWNED', 'w')", {"unparseable", "wrong"}),
    ("().__class__.__mro__[1].__subclasses__()", {"unparseable", "wrong"}),
    ("exec(\"open('PWNED','w')\")", {"unparseable", "wrong"}),
    ("\\input{/etc/passwd}", {"unparseable", "wrong"}),
    ("3", {"correct"}),
]


def scripts_of(pool):
    """The processes that fork the workers."""
    verifiers = pool._threads.verifiers if pool._threads else []
    return [process.pid for verifier in list(verifiers) if (process := verifier.process)]


def workers_of(pool):
    # One that was killed stays a child until its script, which may be waiting for a processor, has taken note.
    return [worker for script in scripts_of(pool) for worker in children(script) if alive(worker)]


def processes_of(pool):
    return scripts_of(pool) + workers_of(pool)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):  # it may end between open and read
        return []


def state(pid):
    """The fields of /proc/PID/stat after the name; empty for a process that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it may end between open and read
        return []


def alive(pid):
    return state(pid)[:1] not in ([], ["Z"])


def processor_seconds(pid):
    return sum(map(int, state(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def kill(pid, signum=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):  # it may have ended at its limit
        os.kill(pid, signum)


def wait_until_gone(pids, seconds=60.0):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


@pytest.fixture(scope="module")
def own_pool():
    """Answers are soon stopped in it, and its processes killed; it goes on, so that one is enough."""
    with VerifierPool(seconds=0.5, num_workers=2) as pool:
        yield pool


def test_a_hostile_set_ends_with_named_outcomes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What takes a second of processor time on a quiet machine takes several on a busy one.
    with VerifierPool(seconds=30, wall_seconds=600, num_workers=2) as pool:
        reward = MathReward("boxed", pool=pool)
        verdicts = reward.verdicts([f"\\boxed{{{text}}}" for text, _ in HOSTILE], ["3"] * len(HOSTILE))
        pids = processes_of(pool)
    surprises = [
        (text[:40], verdict.outcome)
        for (text, allowed), verdict in zip(HOSTILE, verdicts, strict=True)
        if verdict.outcome not in allowed
    ]
    assert surprises == []
    assert list(tmp_path.iterdir()) == []
    assert wait_until_gone(pids) == []


def test_answers_that_hang_end_at_their_limit_of_processor_time(own_pool):
    reward = MathReward("boxed", pool=own_pool)
    # The wall clock would end them after 35 s, and the pool after another two.
    verdicts = reward.verdicts([f"\\boxed{{{text}}}" for text in HANGING], ["3"] * len(HANGING))
    assert [verdict.outcome for verdict in verdicts] == ["timeout"] * len(HANGING)
    assert reward(["\\boxed{3}"], ["3"]) == [1.0]


def test_whole_completions_that_are_hostile_end_too(own_pool):
    texts = ["$" * 100_000, "answer " * 50_000, "\\boxed{" * 30_000, "1 " * 100_000, "$x$ and " * 20_000]
    verdicts = MathReward("math_verify", pool=own_pool).verdicts(texts, ["3"] * len(texts))
    assert all(verdict.outcome in OUTCOMES and verdict.outcome != "correct" for verdict in verdicts)
    assert MathReward("math_verify", pool=own_pool)(["so 3"], ["3"]) == [1.0]


def test_no_score_is_out_of_place_among_hanging_answers(own_pool):
    rng = random.Random(0)
    rows, expected = [], []
    for index in range(600):
        kind = "hang" if index % 100 == 50 else rng.choice(["right", "wrong", "nothing", "no gold"])
        number = rng.randrange(1000)
        text, gold, outcome = {
            "hang": (f"\\boxed{{{TOWER}}}", str(number), "timeout"),
            "right": (f"\\boxed{{{number}}}", f"{number}.0", "correct"),
            "wrong": (f"\\boxed{{{number + 1}}}", str(number), "wrong"),
            "nothing": ("I do not know", str(number), "unparseable"),
            "no gold": (f"\\boxed{{{number}}}", "", "unparseable_gold"),
        }[kind]
        rows.append((text, gold))
        expected.append(outcome)
    reward = MathReward("boxed", pool=own_pool)
    verdicts = reward.verdicts([text for text, _ in rows], [gold for _, gold in rows])
    assert [verdict.outcome for verdict in verdicts] == expected
    assert sum(reward.counts.values()) == 600
    assert reward.counts["timeout"] == 6


def test_a_gold_answer_that_hangs_costs_time_once(own_pool, monkeypatch):
    gold = "\\int" + "{" * 700  # math-verify does not get to the end of it
    first = own_pool.check([Question(gold, "3")])[0]
    assert first.outcome == "unparseable_gold"
    monkeypatch.setattr(verifier.Verifier, "ask", None)  # no worker is asked again
    verdicts = own_pool.check([Question(gold, str(number)) for number in range(100)])
    assert {verdict.outcome for verdict in verdicts} == {"unparseable_gold"}


# 2 to the power of 2**33 is a number of a gigabyte; the libraries catch some failures of memory, and call it unequal.
def test_an_answer_that_eats_memory_is_no_wrong_one_and_takes_nobody_with_it():
    with VerifierPool(seconds=60, wall_seconds=900, memory_mb=256, num_workers=1) as pool:
        for answer in ("2**2**33", "2^{2^{33}}", "(x+1)^{100000}"):
            verdicts = pool.check([Question("3", "3"), Question("3", answer), Question("3", "3")])
            assert [verdict.outcome for verdict in verdicts] == ["correct", "crash", "correct"], answer
            for pid in processes_of(pool):  # both idle
                with open(f"/proc/{pid}/status") as file:
                    peak = next(line for line in file if line.startswith("VmHWM"))
                assert int(peak.split()[1]) < 400 * 1024, answer


def test_a_killed_worker_is_replaced_and_its_answer_tried_again(own_pool):
    own_pool.check([Question("3", "3")] * 4)
    questions = [Question("3", TOWER), Question("3", TOWER), *[Question(str(n), str(n)) for n in range(200)]]
    futures = own_pool.submit(questions)
    for _ in range(6):
        time.sleep(0.1)
        for pid in workers_of(own_pool):
            kill(pid)
    outcomes = [future.result(timeout=600).outcome for future in futures]
    assert len(outcomes) == 202
    # A crash is reported only if both attempts were hit.
    assert outcomes[2:].count("correct") >= 190
    assert set(outcomes[:2]) <= {"timeout", "crash", "unparseable_gold"}  # the last if the gold's attempts were hit
    assert set(outcomes[2:]) <= {"correct", "crash"}
    assert own_pool.check([Question("3", "3")])[0].outcome == "correct"


def test_workers_that_were_killed_while_idle_cost_no_answer(own_pool):
    own_pool.check([Question("3", "3")] * 8)
    for pid in workers_of(own_pool):
        kill(pid)
    time.sleep(0.1)
    assert [verdict.outcome for verdict in own_pool.check([Question("3", "3")] * 8)] == ["correct"] * 8


def test_a_killed_script_is_replaced(own_pool):
    own_pool.check([Question("3", "3")])
    before = processes_of(own_pool)
    for pid in scripts_of(own_pool):
        kill(pid)
    assert wait_until_gone(before) == []  # the workers do not outlive it
    assert [verdict.outcome for verdict in own_pool.check([Question("3", "3")] * 10)] == ["correct"] * 10


def test_a_stopped_worker_is_killed_after_the_grace_time():
    with VerifierPool(seconds=0.1, wall_seconds=0.5, num_workers=1) as pool:
        pool.check([Question("3", "3")])
        (worker,) = workers_of(pool)
        kill(worker, signal.SIGSTOP)
        verdict = pool.check([Question("3", "3")])[0]
        assert verdict.outcome == "timeout"
        assert wait_until_gone([worker]) == []


def test_a_worker_that_is_killed_after_a_long_time_is_a_crash_and_no_timeout():
    with VerifierPool(seconds=2, wall_seconds=3600, num_workers=1) as pool:
        (future,) = pool.submit([Question("3", TOWER)])
        for _ in range(2):
            # Stopped in the middle of its work, it uses no processor time however long it lives.
            worker = wait_for(lambda: next((pid for pid in workers_of(pool) if processor_seconds(pid) > 0.2), None))
            kill(worker, signal.SIGSTOP)
            time.sleep(2.5)
            kill(worker)
            assert wait_until_gone([worker]) == []
        # What follows asks for the gold answer alone, which is in order.
        assert future.result(timeout=600).outcome == "crash"


def test_threads_and_event_loops_share_a_pool(pool):
    reward = MathReward("boxed", pool=pool)

    def score(number):
        texts = [f"\\boxed{{{number + offset}}}" for offset in range(20)]
        return reward(texts, [str(number)] * 20)

    async def score_async():
        groups = [reward.verdicts_async([f"\\boxed{{{n}}}", "\\boxed{0}"], [str(n)] * 2) for n in range(1, 20)]
        return await asyncio.gather(*groups)

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(score, range(40)))
    assert results == [[1.0] + [0.0] * 19] * 40
    verdicts = asyncio.run(score_async())
    assert [[verdict.outcome for verdict in pair] for pair in verdicts] == [["correct", "wrong"]] * 19
    assert sum(reward.counts.values()) == 40 * 20 + 19 * 2


def test_an_event_loop_is_not_blocked(own_pool):
    reward = MathReward("boxed", pool=own_pool)

    async def run():
        ticks = 0
        task = asyncio.create_task(reward.verdicts_async([f"\\boxed{{{TOWER}}}"] * 2, ["3", "3"]))
        while not task.done():
            await asyncio.sleep(0.05)
            ticks += 1
        return ticks, [verdict.outcome for verdict in await task]

    ticks, outcomes = asyncio.run(run())
    assert ticks >= 3  # half a second of sympy and more, and the loop went on; blocked, it ticks once
    assert outcomes == ["timeout", "timeout"]


def test_an_event_loop_is_not_blocked_while_the_verifier_starts(monkeypatch):
    """Whoever comes second, while the first one's question starts a process, must not wait for it in the loop."""
    started, go = threading.Event(), threading.Event()
    in_time = []

    def slow_start(*args, **kwargs):
        started.set()
        in_time.append(go.wait(30))
        return start(*args, **kwargs)

    start = subprocess.Popen
    monkeypatch.setattr(verifier.subprocess, "Popen", slow_start)

    async def run(reward):
        first = asyncio.create_task(reward.verdicts_async(["\\boxed{3}"], ["3"]))
        while not started.is_set():
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(reward.verdicts_async(["\\boxed{3}"], ["3"])) for _ in range(3)]
        await asyncio.sleep(0.1)  # all have asked
        go.set()
        return [verdicts[0].outcome for verdicts in await asyncio.gather(first, *others)]

    with VerifierPool(num_workers=2, seconds=20) as pool:
        assert asyncio.run(run(MathReward("boxed", pool=pool))) == ["correct"] * 4
    assert set(in_time) == {True}


def test_closing_while_the_verifier_starts_leaves_nothing(monkeypatch):
    pool = VerifierPool(num_workers=1)
    (future,) = pool.submit([Question("3", "3")])
    (script,) = wait_for(lambda: scripts_of(pool))
    pool.close()  # math-verify is being loaded
    assert future.result(timeout=60).outcome == "crash"
    assert wait_until_gone([script]) == []
    assert pool._threads is None


def test_threads_end_with_what_they_worked_for():
    import gc

    pool = VerifierPool(num_workers=1)
    pool.check([Question("3", "3")] * 2)
    threads, pids = list(pool._threads.threads), processes_of(pool)
    del pool
    gc.collect()
    for thread in threads:
        thread.join(60)
    assert [thread.is_alive() for thread in threads] == [False]
    assert wait_until_gone(pids) == []


def test_a_pickled_reward_scores_the_same(pool):
    reward = pickle.loads(pickle.dumps(MathReward("answer", pool=pool, name="mine")))
    assert (reward.__name__, reward.answer_format, reward.pool.seconds) == ("mine", "answer", 20)
    assert reward(["Answer: 3"], ["3"]) == [1.0]
    reward.pool.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_starts_its_own_verifiers(method):
    assert math_boxed_reward(["\\boxed{3}"], ["3"]) == [1.0]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as child:
        assert child.submit(math_boxed_reward, ["\\boxed{3}"], ["3"]).result(timeout=600) == [1.0]
    assert math_boxed_reward(["\\boxed{3}"], ["3"]) == [1.0]  # the parent's still work


SCRIPT = """
    import os, signal, sys, time
    from dgpo.lab.rewards.pool import Question, VerifierPool

    pool = VerifierPool(seconds=600, num_workers=2)
    futures = pool.submit([Question("3", "9^{9^{9^{9}}}")] * 2)
    workers = []
    while len(workers) < 2:
        time.sleep(0.1)
        scripts = [process.pid for verifier in pool._threads.verifiers if (process := verifier.process)]
        workers = [pid for script in scripts for pid in open(f"/proc/{script}/task/{script}/children").read().split()]
    print(*scripts, *workers, flush=True)
"""


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "[future.cancel() for future in futures]; pool.close()",
        "os._exit(0)",
        "pass",  # the end of the program does not wait for what is queued
        "os.fork() or time.sleep(600); os.kill(os.getpid(), signal.SIGKILL)",  # a forked child holds no socket
    ],
)
def test_nothing_is_left_behind_when_the_parent_ends(ending, tmp_path):
    code = textwrap.dedent(SCRIPT) + ending
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 4
    process.wait(600)
    try:
        assert wait_until_gone(pids) == []  # they had ten minutes of work before them
        assert list(tmp_path.iterdir()) == []
    finally:
        with contextlib.suppress(ProcessLookupError):  # the forked child, where there is one
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("seconds", [0, 0.005, 0.03, 0.5])
def test_verifiers_that_are_still_starting_end_with_the_parent(seconds, tmp_path):
    code = "from dgpo.lab.rewards.pool import Question, VerifierPool; import time; pool = VerifierPool(num_workers=2)"
    code += "; futures = pool.submit([Question('3', '3')] * 2); print(flush=True); time.sleep(600)"
    variables = {**os.environ, "LC_TEST": str(tmp_path)}  # passed on to verifiers
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=variables)
    parent.stdout.readline()
    time.sleep(seconds)
    parent.kill()
    parent.wait()
    assert wait_until_gone(processes_with(str(tmp_path))) == []


def processes_with(value: str) -> list[int]:
    """The processes whose environment holds a value."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if value.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def test_closing_while_answers_are_checked_ends_at_once():
    pool = VerifierPool(seconds=3600, num_workers=2)
    futures = pool.submit([Question("3", TOWER)] * 2)
    pids = wait_for(lambda: len(found := processes_of(pool)) == 4 and found)
    pool.close()  # long before the hour is over
    assert [future.result().outcome for future in futures] == ["crash", "crash"]
    assert wait_until_gone(pids) == []
    assert pool._threads is None
    pool.close()  # twice does no harm
    assert pool.check([Question("3", "3")])[0].outcome == "correct"  # and it can be used again
    pool.close()


def test_trl_hands_over_chats_columns_and_hooks(pool):
    logged = {}
    reward = checked(MathReward("auto", pool=pool))
    chats = [[{"role": "assistant", "content": f"\\boxed{{{n}}}"}] for n in (1, 2, 3, 4)]
    scores = reward(
        prompts=["?"] * 4,
        completions=chats,
        completion_ids=[[1]] * 4,
        solution=["1", "1", "", "\\boxed{4}"],
        log_metric=lambda name, value: logged.__setitem__(name, value),
    )
    assert reward.__name__ == "math"
    assert scores == [1.0, 0.0, None, 1.0]
    assert logged["math/correct"] == 0.5
    assert logged["math/unparseable_gold"] == 0.25
    assert set(logged) == {f"math/{outcome}" for outcome in OUTCOMES}


def test_a_missing_gold_column_is_said(pool):
    with pytest.raises(RewardError, match=r"column 'answer' or 'solution'; the data set has gold"):
        MathReward(pool=pool)(completions=["1"], gold=["1"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        MathReward(pool=pool)(["1", "2"], ["1"])


def test_verls_face():
    assert compute_score("math_dapo", "Answer: 1/2", "0.5", {"index": 3}, sandbox_fusion_url=None) == {
        "score": 1.0,
        "acc": True,
        "pred": "1/2",
        "outcome": "correct",
    }
    assert compute_score("x", "no", "")["score"] == 0.0
    assert compute_score("x", "Answer: 3\n4", "4", answer_format="answer")["score"] == 0.0
    json.dumps(compute_score("x", "no", "3"))


@pytest.mark.parametrize("name", ["math", "math_boxed", "math_answer", "math_hashes", "math_tag", "math_last_number"])
def test_recipes_know_the_names(name):
    assert get_reward(name).__name__ == name
    assert get_reward(name)(["<answer>3</answer>\nAnswer: \\boxed{3}\n#### 3"], answer=["3"]) == [1.0]


def test_a_verifier_that_does_not_start_says_why(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('No module named this')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with VerifierPool() as pool, pytest.raises(RewardError, match=r"No module named this.*pip install 'dgpo\[lab\]'"):
        pool.check([Question("3", "3")])


def test_the_workers_see_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with VerifierPool(num_workers=1) as pool:
        pool.check([Question("3", "3")])
        for pid in processes_of(pool):
            with open(f"/proc/{pid}/environ", "rb") as file:
                assert b"secret" not in file.read()


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("memory_mb", 1), ("num_workers", 0)])
def test_limits_that_cannot_work_are_refused(name, value):
    with pytest.raises(RewardError, match=f"verifier's {name} is {value}"):
        VerifierPool(**{name: value})


def test_the_script_loads_neither_torch_nor_the_rest_of_this_package():
    code = f"import sys; exec(open({str(verifier._SCRIPT)!r}).read().partition('if __name__')[0]); "
    code = f"__file__ = {str(verifier._SCRIPT)!r}; " + code
    code += "_load_check()('1/2', '0.5', raw=False); assert not {'torch', 'dgpo', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=600)

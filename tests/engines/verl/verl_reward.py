"""A reward with spread for a random model: dgpo's own mathematical one, and a little for digits.

`varies` is what dynamic sampling goes by in the tests: of a prompt with an even answer all completions have the same.
"""

from dgpo.lab.rewards.math import compute_score as math_score


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    scored = math_score(data_source, solution_str, ground_truth, extra_info)
    digits = sum(letter.isdigit() for letter in solution_str)
    score = scored["score"] + 0.1 * (digits % 4) + 0.02 * len(set(solution_str))
    return {**scored, "score": score, "varies": score if int(ground_truth) % 2 else 0.0}

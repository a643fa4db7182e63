"""Intervals and tests of exam scores. The question is the observation: asked in five orders of its options it still counts once."""

import math
from collections import defaultdict

Z = 1.959964  # 95%, two-sided


def wilson(right: float, n: float, z: float = Z) -> tuple[float, float]:
    """The 95% interval of a share (E. B. Wilson, JASA 22, 1927), as shares; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def by_question(predictions: list[dict]) -> dict[int, list[bool]]:
    """{number of the question: whether each of its answers was right}; a prediction without a number is a question of its own."""
    found: dict[int, list[bool]] = defaultdict(list)
    for place, prediction in enumerate(predictions):
        found[prediction.get("number", -1 - place)].append(bool(prediction["right"]))
    return dict(found)


def interval(questions: list[list[bool]]) -> tuple[float, float]:
    """Wilson's interval of the share of right answers, where each question may have been answered several times.

    n is the effective one, p(1 - p) / variance of the mean over questions (Franco et al., Journal of Survey Statistics and
    Methodology 7, 2019): the number of questions where their answers agree, of answers where they are independent.
    """
    if not questions:
        return wilson(0, 0)
    shares = [sum(answers) / len(answers) for answers in questions]
    n, mean = len(shares), sum(shares) / len(shares)
    answers = sum(map(len, questions))
    if answers == n:
        return wilson(sum(answer for one in questions for answer in one), n)
    variance = sum((share - mean) ** 2 for share in shares) / n**2
    effective = n if mean in (0, 1) else answers if variance == 0 else min(answers, mean * (1 - mean) / variance)
    return wilson(mean * effective, effective)


def sign_flip(differences: list[int]) -> float:
    """The exact two-sided p of paired differences whose signs are a fair coin's (Fisher's permutation test, by convolution).

    Args:
        differences: whole numbers, one a question. Where they are -1, 0 and 1 it is the exact McNemar test.
    """
    import numpy as np

    sizes = [abs(difference) for difference in differences if difference]
    total, seen = sum(sizes), abs(sum(differences))
    chances = np.zeros(2 * total + 1)  # of each sum from -total to total
    chances[total] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2  # nothing wraps: the outer places are still empty
    return min(1.0, float(chances[: total - seen + 1].sum() + chances[total + seen :].sum())) if seen else 1.0


def paired(first: list[dict], second: list[dict]) -> dict:
    """The paired difference of two lists of predictions of the same questions, in percentage points, second minus first.

    Returns:
        {"n": questions, "difference", "interval" (95%, Agresti and Min's adjusted Wald, Statistics in Medicine 24, 2005, over
        the differences of questions), "p" (exact; see sign_flip), "gained", "lost": numbers of the questions that are answered
        right more, and less, often by the second}.

    Raises:
        ValueError: the two do not hold the same questions, each as often.
    """
    before, after = by_question(first), by_question(second)
    if {k: len(v) for k, v in before.items()} != {k: len(v) for k, v in after.items()}:
        raise ValueError("the two lists do not hold the same questions, each as often")
    n = len(before)
    times = math.lcm(*(len(answers) for answers in before.values()))
    gains = {number: times * (sum(after[number]) - sum(answers)) // len(answers) for number, answers in before.items()}
    shares = [gain / times for gain in gains.values()]
    size = n + 2  # two more questions, half of one in each of the four cells
    middle = sum(shares) / size
    half = Z * math.sqrt(sum(share * share for share in shares) + 1 - sum(shares) ** 2 / size) / size
    return {
        "n": n,
        "difference": round(100 * sum(shares) / max(1, n), 2),
        "interval": [round(100 * max(-1.0, middle - half), 2), round(100 * min(1.0, middle + half), 2)],
        "p": sign_flip(list(gains.values())),
        "gained": [number for number, gain in gains.items() if gain > 0],
        "lost": [number for number, gain in gains.items() if gain < 0],
    }

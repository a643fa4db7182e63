"""Intervals and tests of exam scores, in which a question counts once: asked in several orders of its options, it has the vote's answer."""

import math

Z = 1.959964  # 95%, two-sided


def wilson(right: float, n: float, z: float = Z) -> tuple[float, float]:
    """The 95% interval of a share (E. B. Wilson, JASA 22, 1927), as shares; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(first: list[dict], second: list[dict]) -> dict:
    """The paired difference of two lists of predictions of the same questions, in percentage points, second minus first.

    Returns:
        {"n": questions, "difference", "interval" (95%, Agresti and Min's adjusted Wald, Statistics in Medicine 24, 2005), "p" (the
        exact McNemar test), "gained", "lost": numbers of the questions that the second alone, and the first alone, answers right}.

    Raises:
        ValueError: the two do not hold the same questions.
    """
    before, after = ({one["number"]: bool(one["right"]) for one in given} for given in (first, second))
    if before.keys() != after.keys() or len(first) != len(second):
        raise ValueError("the two lists do not hold the same questions")
    gained, lost = ([n for n in before if (before[n], after[n]) == flip] for flip in ((False, True), (True, False)))
    n, net, flips = len(before), len(gained) - len(lost), len(gained) + len(lost)
    size = n + 2  # two more questions, half of one in each of the four cells
    half = Z * math.sqrt(flips + 1 - net**2 / size) / size
    p = 2 * sum(math.comb(flips, k) for k in range(min(len(gained), len(lost)) + 1)) / 2**flips
    return {
        "n": n,
        "difference": round(100 * net / max(1, n), 2),
        "interval": [round(100 * max(-1.0, net / size - half), 2), round(100 * min(1.0, net / size + half), 2)],
        "p": min(1.0, p),
        "gained": gained,
        "lost": lost,
    }

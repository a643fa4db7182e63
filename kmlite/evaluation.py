"""Measures: bits per character, exam accuracy with its interval, recall of definitions."""

import json
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

from kmlite import paths, prompts
from kmlite.model import for_inference, on_gpu

# Tokens in one forward pass. The logits of a 262k vocabulary are what fills a small card: 1,024 of them are 1 GiB in float32.
TOKENS_A_PASS = 1024
OF_THIS_SIZE = (  # said wherever the embedded base is scored
    "A model of this size can learn questions by heart; it has no medicine to answer new ones with, so those are guesses: right one\n"
    "  time in five on average, more or less often by luck."
)


def total_loss(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> float:
    """The summed loss in nats of rows of (ids, labels), in batches of similar length."""
    import torch

    for_inference(model, tokenizer)
    pad = tokenizer.pad_token_id
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    total, batch = 0.0, []
    for position, i in enumerate(order):
        batch.append(rows[i])
        following = order[position + 1] if position + 1 < len(order) else None
        if following is not None and (len(batch) + 1) * len(rows[following][0]) <= TOKENS_A_PASS:
            continue
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in batch], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch], device=model.device)
        labels = torch.tensor([row + [prompts.IGNORED] * (longest - len(row)) for _, row in batch], device=model.device)
        targets = int((labels[:, 1:] != prompts.IGNORED).sum())
        if targets:
            with torch.no_grad():
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            total += float(loss) * targets
        batch = []
    return total


def bits_per_character(model, tokenizer, texts: list[str], length: int) -> float:
    """Bits per character of plain texts, comparable between tokenizers where perplexity is not.

    Texts longer than `length` tokens are measured in windows, each with its own <bos>. Counts every token of the text and
    not the <eos> behind it.
    """
    rows = []
    room = length - 1
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), room):
            window = [tokenizer.bos_token_id, *ids[start : start + room]]
            rows.append((window, [prompts.IGNORED, *window[1:]]))
    return total_loss(model, tokenizer, rows) / math.log(2) / sum(map(len, texts))


def answer_bits(model, tokenizer, pairs: list[tuple[str, str]], length: int) -> float:
    """Bits per character of the answers in (prompt, answer) pairs, <end_of_turn> included; too long ones are left out."""
    rows, characters = [], 0
    for prompt, answer in pairs:
        ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
        if len(ids) <= length:
            rows.append((ids, labels))
            characters += len(answer)
    return total_loss(model, tokenizer, rows) / math.log(2) / max(1, characters)


def generate(model, tokenizer, asked: list[str], *, max_new_tokens: int, batch: int) -> list[str]:
    """The model's greedy turn for each prompt, in batches of similar length padded on the left.

    Special tokens stay in the text, so that a reader sees where a turn ended; padding is cut off.
    """
    import torch

    for_inference(model, tokenizer)
    heads = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    pad, stops = tokenizer.pad_token_id, prompts.stop_ids(tokenizer)
    order = sorted(range(len(heads)), key=lambda i: -len(heads[i]))  # the longest first: a batch too large fails at once
    out = [""] * len(heads)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(heads[i]) for i in chosen)
        ids = torch.tensor([[pad] * (longest - len(heads[i])) + heads[i] for i in chosen], device=model.device)
        mask = torch.tensor([[0] * (longest - len(heads[i])) + [1] * len(heads[i]) for i in chosen], device=model.device)
        with torch.no_grad():
            turns = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                top_p=None,
                top_k=None,
                temperature=None,
                eos_token_id=stops,
                pad_token_id=pad,
                # Gemma's generation_config names a static cache, which is compiled anew for each batch shape
                cache_implementation=None,
            )
        for i, turn in zip(chosen, turns[:, longest:].tolist(), strict=True):
            out[i] = tokenizer.decode([token for token in turn if token != pad])
    return out


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share (E. B. Wilson, JASA 22, 1927), as shares; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def score(right: int, n: int) -> dict:
    """{"n", "right", "accuracy" and "interval" in percent}."""
    low, high = wilson(right, n)
    return {"n": n, "right": right, "accuracy": round(100 * right / max(1, n), 2), "interval": [round(100 * low, 2), round(100 * high, 2)]}


def answer_exam(model, tokenizer, questions: list[dict], *, reasoned: bool = False, max_new_tokens: int, batch: int) -> list[dict]:
    """One prediction a question: {"question", "subject", "expected", "answer" (None where unreadable), "right", "output"}."""
    asked = [prompts.exam_prompt(question, reasoned) for question in questions]
    turns = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch)
    out = []
    for number, (question, turn) in enumerate(zip(questions, turns, strict=True), 1):
        answer = prompts.read_answer(turn)
        out.append(
            {
                "number": number,
                "question": question["question"],
                "subject": question.get("subject", "unknown"),
                "expected": question["answer"],
                "answer": answer,
                "right": answer == question["answer"],
                "output": turn,
            }
        )
    return out


def summarise(predictions: list[dict]) -> dict:
    """Accuracy over all (micro) and by subject, each with its 95% interval; unreadable answers count as wrong."""
    subjects = defaultdict(list)
    for prediction in predictions:
        subjects[prediction["subject"]].append(prediction["right"])
    letters = Counter(prediction["answer"] or "unreadable" for prediction in predictions)
    return {
        **score(sum(p["right"] for p in predictions), len(predictions)),
        "by_subject": {name: score(sum(rights), len(rights)) for name, rights in sorted(subjects.items())},
        "unreadable": letters["unreadable"],
        "letters": {letter: letters[letter] for letter in prompts.LETTERS},
    }


def in_words(part: dict) -> str:
    return f"{part['accuracy']:.1f}% ({part['right']}/{part['n']}, 95% interval {part['interval'][0]:.1f}–{part['interval'][1]:.1f})"


def log_opening(folder: Path, by: str, result: dict) -> int:
    """Add a line to a model's log of test openings; returns how often test has been scored."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": by, **{k: result[k] for k in ("n", "right", "accuracy", "interval")}}
    path = folder / paths.TEST_LOG
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())


def character_f1(found: str, expected: str) -> float:
    """Overlap of the characters of two strings as F1, order disregarded: 0 to 1."""
    a, b = Counter("".join(found.split())), Counter("".join(expected.split()))
    shared = sum((a & b).values())
    return 2 * shared / max(1, sum(a.values()) + sum(b.values()))


def definition_recall(model, tokenizer, entries: list[dict], *, batch: int, max_new_tokens: int = 128) -> float:
    """Mean character F1 of the definitions that the model writes for the terms of `entries`."""
    asked = [prompts.dictionary_prompt(entry["term"]) for entry in entries]
    turns = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch)
    scores = [character_f1(prompts.ENDS.split(turn)[0], entry["definition"]) for turn, entry in zip(turns, entries, strict=True)]
    return sum(scores) / max(1, len(scores))


def default_batch() -> int:
    """Prompts generated at once: 8 fit beside a 4-bit model on an 8 GB card; a CPU gains up to 32."""
    return 8 if on_gpu() else 32

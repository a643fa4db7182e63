"""How fast exam questions are answered: the seed's loop, one question at a time, against kmlite's two scorers in batches.

    .venv/bin/python -m benchmarks.evaluation [MODEL [QUESTIONS]]      three minutes on two cores

Needs `make demo` before: its final model, its test questions. The same model in memory, the same questions and the same prompt for
all, in one run, each way ROUNDS times in turn; what counts is the ratio of the medians. Writes model/benchmarks/evaluation.json.

The seed's loop generates up to 500 tokens for each question and hands `tokenizer.encode("<end_of_turn>")[0]` over as the end. With
Gemma's tokenizer that is <bos>, which encode() puts first, so the loop never stops before its 500 tokens. Both are measured: the
loop as it is written, and the loop as it was meant, which stops at <end_of_turn>.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kmlite import files, paths, prompts, records, runs
from kmlite.evaluation import generation, scoring
from kmlite.models import loading

MODEL, REFINED, OUT = Path("model/demo/02_trained/final"), Path("data/demo/02_refined"), Path("model/benchmarks/evaluation.json")
ROUNDS, QUESTIONS, TOKENS = 3, 16, 500
SEED = "seed's loop, as written"


def seed_loop(network, tokenizer, questions: list[dict], end: int) -> tuple[list[str | None], int]:
    """(the letters, how many tokens were written) by the seed's `evaluate_kormedmcqa`, line by line."""
    import torch

    letters, written = [], 0
    for question in questions:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompts.exam_prompt(question)}], tokenize=False, add_generation_prompt=True
        )
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(network.device)
        with torch.no_grad():
            outputs = network.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=end
            )
        written += outputs.shape[1] - inputs["input_ids"].shape[1]
        response = tokenizer.decode(outputs[0], skip_special_tokens=False)
        answer = response.split("</reasoning>")[-1] if "</reasoning>" in response else response.split("<start_of_turn>model")[-1]
        letters.append(next((character for character in answer if character in "ABCDE"), None))
    return letters, written


def ways(network, tokenizer, questions: list[dict], batch: int) -> dict[str, Callable[[], tuple[list[str | None], int]]]:
    asked = [prompts.exam_prompt(question) for question in questions]
    heads = [prompts.conversation_ids(tokenizer, text)[0] for text in asked]
    as_written, as_meant = tokenizer.encode("<end_of_turn>")[0], tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert as_written == tokenizer.bos_token_id, "this tokenizer puts no <bos> first: here the seed's loop does stop"

    def generate(ends: list[int]) -> tuple[list[str | None], int]:
        turns = generation.continued_ids(network, tokenizer, heads, max_new_tokens=TOKENS, batch=batch, ends=ends)
        return [prompts.read_answer(tokenizer.decode(turn)) for turn in turns], sum(map(len, turns))

    def letter() -> tuple[list[str | None], int]:
        return [found["answer"] for found in scoring.letter_answers(network, tokenizer, asked, batch)], 0

    return {
        SEED: lambda: seed_loop(network, tokenizer, questions, as_written),
        "seed's loop, stopping at <end_of_turn>": lambda: seed_loop(network, tokenizer, questions, as_meant),
        "generate": lambda: generate(prompts.stop_ids(tokenizer)),
        "generate, made to write 500 tokens too": lambda: generate([as_written]),
        "letter": letter,
    }


def main(folder: Path, count: int) -> None:
    from rich.table import Table

    from kmlite.cli import console

    questions = records.read_exam(REFINED, "test")[:count]
    network, tokenizer = loading.load(paths.require(folder, "Run first: make demo"), "16bit", 2048)
    loading.for_inference(network, tokenizer)
    longest = max(len(prompts.conversation_ids(tokenizer, prompts.exam_prompt(question))[0]) for question in questions)
    batch = generation.default_batch(network, longest + TOKENS)
    measured = ways(network, tokenizer, questions, batch)
    for name in list(measured)[1:]:
        measured[name]()  # what is slow only once is not measured
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    letters, written = {}, {}
    for _ in range(ROUNDS):
        for name, way in measured.items():
            started = time.perf_counter()
            letters[name], written[name] = way()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    meant = letters["seed's loop, stopping at <end_of_turn>"]
    result = {
        name: {
            "seconds": seconds[name],
            "questions_a_second": len(questions) / median[name],
            "tokens_written": written[name],
            "times_faster": median[SEED] / median[name],
            "right": sum(letter == question["answer"] for letter, question in zip(letters[name], questions, strict=True)),
            "same_letter_as_the_seed": sum(a == b for a, b in zip(letters[name], meant, strict=True)),
        }
        for name in measured
    }
    about = {"model": str(folder), "questions": len(questions), "batch": batch, "rounds": ROUNDS, **runs.environment()}
    files.write_json(OUT, {**about, "ways": result})
    title = f"{len(questions)} questions, {ROUNDS} rounds, batches of {batch}, {about['device']}, {about['threads']} threads"
    table = Table("", "median s", "least–most", "questions/s", "tokens written", "times faster", "same letter", title=title)
    for name, part in result.items():
        spread = f"{min(part['seconds']):.2f}–{max(part['seconds']):.2f}"
        figures = (f"{part['questions_a_second']:.1f}", f"{part['tokens_written']:,}", f"{part['times_faster']:.0f}×")
        table.add_row(name, f"{median[name]:.2f}", spread, *figures, f"{part['same_letter_as_the_seed']}/{len(questions)}")
    console.print(table)
    console.print(f"  times faster: than the seed's loop as written; same letter: as the seed's loop that stops. All of it: {OUT}")


if __name__ == "__main__":
    if len(sys.argv) > 3 or "-h" in sys.argv or "--help" in sys.argv:
        sys.exit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL, int(sys.argv[2]) if len(sys.argv) > 2 else QUESTIONS)

"""Talk to a model: find it, keep a conversation within its length, stream an answer, ask it an exam question."""

import random
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import click

from kmlite import files, paths, prompts, records
from kmlite.cli import printable
from kmlite.evaluation import generation, scoring, voting
from kmlite.messages import localized
from kmlite.models import folders, loading

WARNING = (
    "A language model that passed or failed an exam, not a doctor: never use what it says for the care of a patient.",
    "시험을 치른 언어 모델이며 의사가 아닙니다. 환자 진료에 절대 쓰지 마십시오.",
)
STAND_IN = (
    "This is the embedded base, a stand-in thousands of times smaller than MedGemma: it writes no meaningful text.",
    "MedGemma가 아니라 수천 배 작은 연습용 모델입니다. 뜻 없는 말만 합니다.",
)
LENGTH = 4096  # tokens of a conversation with its answer at most; what is older is left out


@dataclass(frozen=True)
class Speaker:
    """A loaded model to talk to."""

    name: str
    precision: str
    length: int  # tokens of a conversation, the answer included
    stand_in: bool
    model: Any
    tokenizer: Any


# ---- which model


def finished(out: Path) -> list[str]:
    """The folders of the finished stages in `out`, the last first."""
    return [paths.STAGES[number].folder for number in folders.finished(out)]


def beginning(out: Path) -> str | None:
    """The model that stage 0 started from, a hub name or a folder, as its record gives it."""
    record = files.read_record(out / paths.STAGES[0].folder / paths.RECORD)
    return record["plan"]["base"]["name"] if record else None


def others(out: Path, name: str) -> list[str]:
    """What can answer beside the model of that name: finished stages in `out`, and "base" for what stage 0 started from."""
    return [other for other in [*finished(out), *(["base"] if beginning(out) else [])] if other != name]


def find(name: str, out: Path) -> tuple[str, Path]:
    """(short name, folder) of a model: a stage in `out`, its final, any model folder, "base" for the one that stage 0 started
    from, or a hub name; "" is the last finished stage in `out`. A click error where there is none that can be loaded."""
    if not name:
        stages = finished(out)
        if not stages:
            raise click.ClickException(
                f"{out} holds no finished model.\n"
                f"  Name one: make chat MODEL=google/medgemma-4b-it   Train one: make pipeline OUT={out}   "
                "Look around first: make demo, then make chat OUT=model/demo"
            )
        name = stages[0]
    if name == "base" and not (out / name).is_dir():
        name = beginning(out) or name
    places = (Path(name), out / name)
    for folder in (folder for place in places for folder in (place / paths.FINAL, place)):
        if (folder / "config.json").exists():
            stage = folder.parent if folder.name == paths.FINAL else folder
            short = str(stage.relative_to(out)) if stage != out and stage.is_relative_to(out) else str(stage)
            return short, folders.resolve(str(folder), "MODEL")
    if "/" not in name or any(place.is_dir() for place in places):
        raise click.ClickException(
            f"MODEL={name} is no finished stage in {out}, no model folder and no hub name like google/medgemma-4b-it.\n"
            f"  Finished in {out}: {', '.join(finished(out)) or 'none (make pipeline trains them)'}"
        )
    return name, folders.resolve(name, "MODEL")


def load(name: str, folder: Path, precision: str) -> Speaker:
    """Load a model to talk to, in conversations of LENGTH tokens or as many as it was built for; a click error if the card has no room."""
    import torch

    config = files.read_json(folder / "config.json")
    length = min(LENGTH, config.get("text_config", config).get("max_position_embeddings", LENGTH))
    precision = loading.pick_precision(precision, folder)
    try:
        loaded, tokenizer = loading.load(folder, precision, length)
    except torch.OutOfMemoryError as error:
        loading.free()
        raise click.ClickException(
            f"the card has no room for {name} in {precision} weights. Close what else runs there, or: ARGS='--precision 4bit'"
        ) from error
    loading.for_inference(loaded, tokenizer)
    return Speaker(name, precision, length, folders.is_stand_in(folder), loaded, tokenizer)


# ---- what it says


class Turn(NamedTuple):
    """How far an answer has come. `dropped`: oldest turns of the conversation (a message and its answer) left out for room; `ended`, in
    the last one: "turn", "length", or "thought" where the model never came to an answer; `thought`: before it, no part of its text."""

    text: str
    tokens: int
    seconds: float
    dropped: int
    ended: str = ""
    thought: str = ""


def so_far(tokenizer, ids: list[int], dropped: int, seconds: float) -> Turn:
    """The turn that an answer's tokens come to. A thought is not counted."""
    thinks, stops = prompts.thought_ids(tokenizer), prompts.stop_ids(tokenizer)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    parts: tuple[list[int], list[int]] = ([], [])  # shown, thought
    thinking = False
    for token in ids[:end]:
        if token in thinks:
            thinking = token == thinks[0]
        else:
            parts[thinking].append(token)
    how = "thought" if thinking else "turn" if end < len(ids) else "length"
    return Turn(tokenizer.decode(parts[0]), len(parts[0]), seconds, dropped, how, tokenizer.decode(parts[1]))


def fit(tokenizer, messages: list[dict], room: int) -> tuple[list[int], int]:
    """(ids, turns dropped): the longest end of a conversation that fits into `room` tokens; a click error where its last message does
    not."""
    start = len(messages) - 1
    ids = prompts.dialogue_ids(tokenizer, messages[start:])
    if len(ids) > room:
        raise click.ClickException(f"that message is {len(ids):,} tokens long, and {room:,} is what there is room for. Shorten it.")
    # from the end: a conversation of thousands of turns costs no more than its room
    while start and len(longer := prompts.dialogue_ids(tokenizer, messages[start - 2 :])) <= room:
        ids, start = longer, start - 2
    return ids, start // 2


def answer(speaker: Speaker, messages: list[dict], max_new_tokens: int, temperature: float) -> Generator[Turn, None, None]:
    """The model's next turn in a conversation, longer each time; the model stops where the iterator is closed.

    `max_new_tokens`: of what is shown; a thought may take generation.THOUGHT_MOST beside them. `temperature`: 0 takes the likeliest token
    each time; above it draws, with top-k and top-p as the model's own generation_config.json gives them. A click error where the
    conversation does not fit into the model's length, or into the card's memory.
    """
    ids, dropped = fit(speaker.tokenizer, messages, speaker.length - max_new_tokens)
    written: SimpleQueue = SimpleQueue()  # the answer's tokens so far, again and again; then what ended the work: an exception or None
    stop = threading.Event()
    thread = threading.Thread(target=write, args=(speaker, ids, max_new_tokens, temperature, written, stop), daemon=True)
    started, turn = time.monotonic(), Turn("", 0, 0, dropped, "length")
    thread.start()
    try:
        while isinstance(tokens := written.get(), list):
            turn = so_far(speaker.tokenizer, tokens, dropped, time.monotonic() - started)
            # a rare syllable is several byte tokens; until the last of them the text ends in U+FFFD
            yield turn._replace(text=turn.text.rstrip("\ufffd"), thought=turn.thought.rstrip("\ufffd"), ended="")
    finally:
        stop.set()
        thread.join()
    if tokens is not None:
        raise tokens
    yield turn


def write(speaker: Speaker, ids: list[int], most: int, temperature: float, written: SimpleQueue, stop: threading.Event) -> None:
    """Generate into the queue, in a thread of its own; what goes wrong is raised where the queue is read."""
    import torch

    tokenizer = speaker.tokenizer
    thinks = prompts.thought_ids(tokenizer)
    full = generation.until(tokenizer, (1, len(ids)), most, thinks, None)
    tokens = min(most + (generation.THOUGHT_MOST if thinks else 0), speaker.length - len(ids))
    how = generation.writing(tokenizer, tokens, temperature)

    def heard(tokens, scores, **_):
        written.put(tokens[0, len(ids) :].tolist())
        return full(tokens, scores) | stop.is_set()

    ended: BaseException | None = None
    try:
        loading.for_inference(speaker.model, tokenizer)
        prompt = torch.tensor([ids], device=speaker.model.device)
        with torch.no_grad():
            speaker.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), stopping_criteria=[heard], **how)
    except torch.OutOfMemoryError:
        ended = click.ClickException(f"the card has no room for a conversation of {len(ids):,} tokens. /reset starts anew.")
    except BaseException as error:
        ended = error
    if ended:
        loading.free()
    written.put(ended)


# ---- exam questions


def exam_question(refined: Path, argument: str) -> tuple[int, dict]:
    """(number, question) of the dev split by "7", or any by ""."""
    questions = records.read_exam(refined, "dev")
    number = int(argument) if argument.isdecimal() else 0 if argument or not questions else random.randint(1, len(questions))
    if not 0 < number <= len(questions):
        raise click.ClickException(f"/exam {argument}: a number from 1 to {len(questions)}, or none to draw one.")
    return number, questions[number - 1]


def ask_exam(speaker: Speaker, question: dict) -> dict:
    """An exam question asked by itself with kmlite's own prompt, as `scoring.answer_exam` by letter; a click error where it is longer than
    the model's length."""
    fit(speaker.tokenizer, [{"role": "user", "content": prompts.exam_prompt(question)}], speaker.length)
    [found] = scoring.answer_exam(speaker.model, speaker.tokenizer, [question], scorer="letter", batch=1)
    return found


def exam_text(number: int, question: dict, found: dict) -> str:
    """An exam question, the probability of each option as a bar of up to 20 columns, and which one is right; `found` as of `ask_exam`."""
    truth = question["answer"]
    subject = f" · {question['subject']}" if question.get("subject") else ""
    lines = [localized(f"dev question {number}") + subject, question["question"], ""]
    for letter, share in zip(prompts.LETTERS, found["probabilities"], strict=True):
        lines += [f"{letter}) {question[letter]}", f"{'█' * round(20 * share):<20} {share:>6.1%}"]
    verdict = f"{found['answer']} is {'right ✓' if found['answer'] == truth else 'wrong ✗'}; right is {truth}: {question[truth]}"
    mass = f"The five letters hold {found['mass']:.0%} of the next token's probability; {voting.in_words(1)}."
    lines += ["", localized(verdict), localized(mass)]
    return printable("\n".join(lines))

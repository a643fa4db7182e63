"""Talk to a model: find it, keep a conversation within its length, stream an answer, ask it an exam question."""

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from kmlite import files, paths, prompts
from kmlite.evaluation import generation, voting
from kmlite.models import folders, loading

WARNING = (
    "A language model that passed or failed an exam, not a doctor: never use what it says for the care of a patient.",
    "시험을 치른 언어 모델이며 의사가 아닙니다. 환자 진료에 절대 쓰지 마십시오.",
)
STAND_IN = (
    "This is the embedded base, a stand-in thousands of times smaller than MedGemma: it writes no meaningful text.",
    "MedGemma가 아니라 수천 배 작은 연습용 모델입니다. 뜻 없는 말만 합니다.",
)
GEMMA_POSITIONS = 131_072  # what transformers takes for Gemma 3 where a configuration does not say


@dataclass(frozen=True)
class Speaker:
    """A loaded model to talk to."""

    name: str
    folder: Path
    precision: str
    length: int  # tokens of a conversation, the answer included
    stand_in: bool
    model: Any
    tokenizer: Any


# ---- which model


def finished(out: Path) -> list[str]:
    """The stages in `out` that have a final model, the newest first."""
    records = {stage: files.read_record(out / stage / paths.RECORD) for stage in paths.STAGES if (out / stage / paths.FINAL).is_dir()}
    ended = {stage: datetime.fromisoformat(record["finished"]) for stage, record in records.items() if record}
    return sorted(ended, key=lambda stage: (ended[stage], stage), reverse=True)


def beginning(out: Path) -> str | None:
    """The model that stage 0 started from, a hub name or a folder, as its record gives it."""
    record = files.read_record(out / paths.STAGES[0] / paths.RECORD)
    return record["plan"]["base"]["name"] if record else None


def find(name: str, out: Path) -> tuple[str, Path]:
    """(short name, folder) of a model: a stage in `out`, its final, any model folder, "base" for the one that stage 0 started
    from, or a hub name; "" is the newest final in `out`.

    Raises:
        click.ClickException: no such model, or one that can't be loaded.
    """
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
    for place in (Path(name), out / name):
        for folder in (place / paths.FINAL, place):
            if (folder / "config.json").exists():
                return short_name(folder, out), folders.resolve(str(folder), "MODEL")
        if place.is_dir():
            raise click.ClickException(
                f"{place} holds no finished model: neither final/config.json nor config.json is there.\n"
                f"  Finish that stage with the command that began it, or name another model. Finished in {out}: {listed(out)}"
            )
    if "/" not in name:
        raise click.ClickException(
            f"MODEL={name} is no stage in {out}, no folder and no hub name like google/medgemma-4b-it. Finished in {out}: {listed(out)}"
        )
    return name, folders.resolve(name, "MODEL")


def listed(out: Path) -> str:
    return ", ".join(finished(out)) or "none (make pipeline trains them)"


def short_name(folder: Path, out: Path) -> str:
    stage = folder.parent if folder.name == paths.FINAL else folder
    return str(stage.relative_to(out)) if stage != out and stage.is_relative_to(out) else str(stage)


def load(name: str, folder: Path, precision: str, length: int) -> Speaker:
    """Load a model to talk to; `length` is cut to what the model was built for.

    Raises:
        click.ClickException: the card has no room for it.
    """
    import torch

    config = files.read_json(folder / "config.json")
    length = min(length, config.get("text_config", config).get("max_position_embeddings", GEMMA_POSITIONS))
    precision = loading.pick_precision(precision, folder)
    try:
        loaded, tokenizer = loading.load(folder, precision, length)
    except torch.OutOfMemoryError as error:
        loading.free()
        raise click.ClickException(
            f"the card has no room for {name} in {precision} weights. Close what else runs there, or: ARGS='--precision 4bit'"
        ) from error
    loading.for_inference(loaded, tokenizer)
    return Speaker(name, folder, precision, length, folders.is_stand_in(folder), loaded, tokenizer)


# ---- what it says


class Stream:
    """Takes the tokens that `generate` hands over one by one and says the text, whole characters at a time.

    A rare syllable is several byte tokens; until the last of them the text ends in U+FFFD and is held back. A thought
    (`prompts.THINKS`) is neither said nor counted unless `thoughts`.
    """

    def __init__(self, tokenizer, said: Callable[[str], None], thoughts: bool = False):
        self.tokenizer, self.said = tokenizer, said
        self.thinks = [] if thoughts else prompts.thought_ids(tokenizer)
        self.thinking = False
        self.stops = set(prompts.stop_ids(tokenizer))
        self.prompt_seen = self.ended = False
        self.held: list[int] = []
        self.pieces: list[str] = []
        self.tokens = 0

    def put(self, ids) -> None:
        if not self.prompt_seen:  # the first call brings the prompt
            self.prompt_seen = True
            return
        token = int(ids.reshape(-1)[0])
        if token in self.thinks:
            self.thinking = token == self.thinks[0]
            return
        if token in self.stops:
            self.ended = True
        if self.thinking:
            return
        self.tokens += 1
        if self.ended:
            return
        self.held.append(token)
        text = self.tokenizer.decode(self.held)
        if not text.endswith("\ufffd"):
            self.say(text)

    def end(self) -> None:
        if self.held:
            self.say(self.tokenizer.decode(self.held))

    def say(self, text: str) -> None:
        self.held = []
        self.pieces.append(text)
        self.said(text)


def fit(tokenizer, messages: list[dict], room: int) -> tuple[list[int], int]:
    """(ids, turns dropped): the longest end of a conversation that fits into `room` tokens; a turn is a message and its answer.

    Raises:
        click.ClickException: not even the last message fits.
    """
    turns = (len(messages) + 1) // 2

    def latest(kept: int) -> list[int]:
        return prompts.dialogue_ids(tokenizer, messages[2 * (turns - kept) :])

    most = 1
    while most < turns and len(latest(most)) <= room:  # from the end: a conversation of thousands of turns costs no more than its room
        most = min(2 * most, turns)
    kept = bisect_right(range(1, most + 1), room, key=lambda kept: len(latest(kept)))
    if not kept:
        raise click.ClickException(
            f"that message is {len(latest(1)):,} tokens long, and {room:,} is what there is room for. "
            "Shorten it, or start with a larger --length."
        )
    return latest(kept), turns - kept


def answer(
    speaker: Speaker,
    messages: list[dict],
    *,
    max_new_tokens: int,
    temperature: float,
    said: Callable[[str], None],
    stopped: Callable[[], bool],
    thoughts: bool = False,
) -> dict:
    """The model's next turn in a conversation, said piece by piece while it is written.

    Args:
        max_new_tokens: of what is said; a thought may take generation.THOUGHT_MOST beside them, as far as the length allows.
        temperature: 0 takes the likeliest token each time; above it draws, with top-k and top-p as the model's own
            generation_config.json gives them.
        stopped: asked after each token; once true, the answer ends as it stands.
        thoughts: say what the model thinks before it answers too.

    Returns:
        {"text", "tokens", "seconds", "ended": "turn", "length", "stopped" or "thought" (which never ended), "dropped": oldest turns
        left out for room}.
    """
    import torch

    ids, dropped = fit(speaker.tokenizer, messages, speaker.length - max_new_tokens)
    loading.for_inference(speaker.model, speaker.tokenizer)
    stream = Stream(speaker.tokenizer, said, thoughts)
    thinks = prompts.thought_ids(speaker.tokenizer)
    most = min(max_new_tokens + (generation.THOUGHT_MOST if thinks else 0), speaker.length - len(ids))
    written = generation.until(speaker.tokenizer, (1, len(ids)), max_new_tokens, thinks, None)

    def asked_to_stop(so_far, scores, **_):
        return written(so_far, scores) | torch.full((so_far.shape[0],), stopped(), dtype=torch.bool, device=so_far.device)

    drawn = {"do_sample": True, "temperature": temperature}
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    prompt = torch.tensor([ids], device=speaker.model.device)
    started = time.monotonic()
    try:
        with torch.no_grad():
            speaker.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=most,
                **(drawn if temperature else greedy),
                eos_token_id=prompts.stop_ids(speaker.tokenizer),
                pad_token_id=speaker.tokenizer.pad_token_id,
                cache_implementation=None,  # not the static one of Gemma's generation_config
                streamer=stream,
                stopping_criteria=[asked_to_stop],
            )
    except torch.OutOfMemoryError as error:
        loading.free()
        raise click.ClickException(
            f"the card has no room for a conversation of {len(ids):,} tokens. /reset starts anew; a smaller --length keeps it short."
        ) from error
    ended = "turn" if stream.ended else "stopped" if stopped() else "length"
    if stream.thinking and ended != "stopped":
        ended = "thought"
    return {
        "text": "".join(stream.pieces),
        "tokens": stream.tokens,
        "seconds": time.monotonic() - started,
        "ended": ended,
        "dropped": dropped,
    }


def ask_exam(speaker: Speaker, question: dict) -> dict:
    """How likely each letter is as the answer to an exam question, asked by itself with kmlite's own prompt.

    Returns:
        {"answer", "probabilities" (of A to E, together 1), "mass" (of the next token's probability that the five hold), "way" in words}.

    Raises:
        click.ClickException: the question is longer than the model's length.
    """
    asked = prompts.exam_prompt(question)
    fit(speaker.tokenizer, [{"role": "user", "content": asked}], speaker.length)
    return voting.ask(speaker.model, speaker.tokenizer, question)

"""Every word said to a model, and how its answer is read back.

Training and evaluation render through the same `conversation_ids`, in the chat template of the model's own tokenizer, so
that the prompt of an evaluation is a prefix of the training text, token for token.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import chain, pairwise
from typing import NamedTuple

VERSION = 2  # stands beside every figure: raise it when a word of a prompt or a rule of read_answer changes
LETTERS = "ABCDE"
WHERE_FROM = ("year", "period", "q_number")  # of an exam question, with its subject; never shown to a model
IGNORED = -100  # a label that the loss does not count

SHORT = "정답 알파벳만 답하세요 (A, B, C, D, E 중 하나)."
REASONED = "Reasoning 후 정답 알파벳 하나만 답하세요."
STEPS = ("첫째", "둘째", "셋째", "넷째")


class Prompt(NamedTuple):
    """A way to ask an exam question. Whoever asks in another takes all echoes off: how a turn is read does not depend on how was asked."""

    what: str  # it asks for
    reasoned: bool  # a reasoning stands before the letter
    instruction: str
    tokens: int  # that an answer may take
    echo: str  # how a turn begins that repeats the instruction: it goes on to repeat the question, and is no answer


PROMPTS = {
    "kmlite": Prompt("a letter", False, SHORT, 32, "정답 알파벳만 답하세요 "),
    "kmlite-reasoned": Prompt("a reasoning and a letter", True, REASONED, 500, "Reasoning 후 정답 알파벳 "),
}


def dictionary_prompt(term: str) -> str:
    return f"Meaning of word {term}:"


def exam_prompt(question: dict, reasoned: bool = False, prompt: str = "") -> str:
    """The user's turn for a question of the refined format ({"question", "A" … "E"}).

    Args:
        prompt: one of PROMPTS; empty: "kmlite-reasoned" where `reasoned`, else "kmlite".
    """
    instruction = PROMPTS[prompt or ("kmlite-reasoned" if reasoned else "kmlite")].instruction
    options = "\n".join(f"{letter}) {question[letter]}" for letter in LETTERS)
    return f"{instruction}\n\n{question['question']}\n{options}"


def exam_answer(question: dict, reasoned: bool = False) -> str:
    """The model's turn: the letter, after the reasoning in up to four steps where one is asked for."""
    if not reasoned:
        return question["answer"]
    sentences = reasoning_sentences(question["cot"])
    size = -(-len(sentences) // len(STEPS))
    steps = [" ".join(sentences[i : i + size]) for i in range(0, len(sentences), size)]
    lines = "\n".join(f"{name}: {step}" for name, step in zip(STEPS, steps, strict=False))
    return f"<reasoning>\n{lines}\n</reasoning>{question['answer']}"


# "차근차근 생각해봅시다." opens and "따라서, 정답은 (E) 입니다." closes the reasonings of KorMedMCQA: the first says nothing,
# the second stands behind </reasoning> as the answer.
OPENER = re.compile(r"^\s*차근차근\s*생각해\s*봅시다\.?\s*")
CONCLUSION = re.compile(r"정답은\s*\(?([A-E])\)?\s*번?\s*(?:다\s*)?(?:입니다|이다|임)?\.?\s*$")
SENTENCE_END = re.compile(r"(?<=[다요음임까]\.)\s+|\n+")


def reasoning_sentences(cot: str) -> list[str]:
    """The sentences of a written-out reasoning, without its opening phrase and its conclusion."""
    sentences = [s.strip() for s in SENTENCE_END.split(OPENER.sub("", cot.strip())) if s.strip()]
    if sentences and CONCLUSION.search(sentences[-1]):
        sentences.pop()
    return sentences


def conclusion_letter(cot: str) -> str | None:
    """The letter that a written-out reasoning ends in, or None."""
    found = CONCLUSION.search(cot.strip())
    return found.group(1) if found else None


RESERVED = re.compile(r"<unused\d+>|<mask>|\[multimodal\]")  # Gemma's control tokens that its tokenizer.json does not mark as special


@lru_cache(maxsize=4)
def control_ids(tokenizer) -> frozenset[int]:
    """Ids that steer a model in place of standing for text."""
    added = tokenizer.added_tokens_decoder
    return frozenset(i for i, token in added.items() if token.special or RESERVED.fullmatch(token.content))


def text_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of texts that come from data or a user. A control token that one of them spells out becomes ordinary letters."""
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    control = control_ids(tokenizer)
    return [ids if control.isdisjoint(ids) else spelled_ids(tokenizer, text) for text, ids in zip(texts, encoded, strict=True)]


def spelled_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a text that is cut behind the first letter of each control token, so that none of them is found."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    # a span of one letter is no spelled-out token: <unk> stands for what a vocabulary without byte fallback can't write
    cuts = [start + 1 for i, (start, end) in spans if i in control_ids(tokenizer) and end - start > 1]
    if not cuts:
        return found["input_ids"]
    return list(chain.from_iterable(text_ids(tokenizer, [text[a:b] for a, b in pairwise([0, *cuts, len(text)])])))


@lru_cache(maxsize=16)
def frame(tokenizer, turns: int, open_turn: bool) -> list[list[int]]:
    """Token ids of what the chat template writes before, between and behind `turns` messages of user and model in turn.

    Args:
        open_turn: whether the model's next turn is opened behind them.
    """
    mark = "\ufdd0"  # no character: no template writes it, and `| trim` keeps it
    messages = [{"role": ("user", "assistant")[i % 2], "content": mark} for i in range(turns)]
    parts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn).split(mark)
    if len(parts) != turns + 1:
        raise ValueError("this tokenizer's chat template does not write each message once")
    if not open_turn:
        parts[-1] = parts[-1].rstrip("\n")  # the newline after <end_of_turn> belongs to the next turn: a model stops before it
    return tokenizer(parts, add_special_tokens=False)["input_ids"]  # the template writes the one <bos> itself


def conversation_ids(tokenizer, prompt: str, answer: str | None = None) -> tuple[list[int], list[int]]:
    """Token ids and labels of one turn each of user and model, in the tokenizer's own chat template.

    Labels are IGNORED but for the answer and its <end_of_turn>; without an answer the ids end where the model begins to
    write. The template's own text, prompt and answer are encoded apart: the ids of the one don't depend on the other, and
    control tokens come from the template alone.
    """
    before, behind = frame(tokenizer, 1, True)
    contents = text_ids(tokenizer, [prompt.strip()] if answer is None else [prompt.strip(), answer.strip()])
    ids = [*before, *contents[0], *behind]
    if answer is None:
        return ids, [IGNORED] * len(ids)
    *head, end = frame(tokenizer, 2, False)
    if head != [before, behind]:
        raise ValueError("this tokenizer's chat template does not continue its own generation prompt")
    completion = [*contents[1], *end]
    return ids + completion, [IGNORED] * len(ids) + completion


def dialogue_ids(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a conversation up to where the model begins to write; for one message those of `conversation_ids`.

    Args:
        messages: {"role": "user" or "assistant", "content"}, in turns, the user's first and last.
    """
    contents = text_ids(tokenizer, [message["content"].strip() for message in messages])
    before, *parts = frame(tokenizer, len(messages), True)
    return [*before, *chain.from_iterable([*content, *part] for content, part in zip(contents, parts, strict=True))]


def guided_ids(tokenizer, prompt: str, guides: list[tuple[str, str]]) -> list[int]:
    """Token ids of a prompt behind worked examples, each a (prompt, answer) turn before it, up to where the model begins to write."""
    turns = [{"role": role, "content": said} for guide in guides for role, said in zip(("user", "assistant"), guide, strict=True)]
    return dialogue_ids(tokenizer, [*turns, {"role": "user", "content": prompt}])


def stop_ids(tokenizer) -> list[int]:
    """The ids that end a model's turn: <end_of_turn> and <eos>, whichever of them the tokenizer calls its eos_token."""
    return [tokenizer.convert_tokens_to_ids(token) for token in ("<end_of_turn>", "<eos>")]


# What may stand right behind a letter that names an option: no Latin letter or digit, no Hangul but particles and endings.
# So the A of "A patient" and "A군", the E of "E. coli", the C of "비타민 C" and the B of "B형" are none.
PARTICLE = r"(?=번|입니다|이|가|은|는|을|를|와|과|도|만|로|의|라|랑|나|예요|임|일 |다(?![가-힣]))"
BEHIND = r"(?![A-Za-z0-9+\-]|['’]s|\.? [a-z]| \d+-)(?:(?![가-힣])|" + PARTICLE + ")"
BEFORE = r"(?<![A-Za-z0-9])(?<!비타민)(?<!비타민 )(?<!인플루엔자 )(?<!간염 )(?<!itis )(?<!itamin )(?<!ype )(?<!uenza )"
OPTION = BEFORE + r"([A-E])" + BEHIND
JOINED = r"\s*(?:와|과|나|이나|또는|혹은|및|or|and|,|/|·)\s*[(\[]?"
OPEN, CLOSE = r"[\s\[(*\"'‘“「<]*", r"[)\]*\"'’”」>.]*"

RANGE = re.compile(r"[A-E](?:" + JOINED + r"[A-E])+[)\]]?\s*(?:번)?\s*(?:중|가운데)(?:에서|에|의)?(?:는)?|[A-E]\s*[~–]\s*[A-E](?![A-Za-z])")
NEGATED = re.compile(
    OPTION + CLOSE + r"\s*번?(?:은|는|이|가)?\s*(?:정답이|답이|정답은|답은)?\s*(?:아니|아닌|아닙|아님|틀[리렸린])[가-힣]*,?"
)
NEGATED_ENGLISH = re.compile(r"\bnot\s+(?:option\s+)?" + BEFORE + r"[A-E](?![A-Za-z0-9])")
STATED = re.compile(
    r"(?:정답|답안|답|[Aa]nswer)\s*(?:은|는|이|가|is)?[\s:：=\-→]*(?:선택지|보기|[Oo]ption)?"
    + OPEN + OPTION.replace("[A-E]", "[A-Ea-e]") + r"(?!일 수)" + CLOSE + r"(" + JOINED + r"[A-E](?![A-Za-z])|일 수)?"
)  # fmt: skip
CONFIRMED = re.compile(OPTION + CLOSE + r"\s*번?\s*(?:이|가)\s*(?:정답|답|맞|옳|적절)")
LEADING = re.compile(r"^" + OPEN + r"(?:[#\-:]\s*)?" + OPTION)
LETTER = re.compile(OPTION)
LISTED = re.compile(r"^\s*[\[(]?([A-E])[).:\]]", re.MULTILINE)
SEVERAL = re.compile(r"(?<![A-Za-z])[A-E](?:[)\]]?" + JOINED + r"[A-E])+(?![A-Za-z])")
ENDS = re.compile(r"<end_of_turn>|<eos>|<start_of_turn>")

# MedGemma 1.5 may think before it answers: `<unused94>thought … <unused95>`. What it thinks is no part of its answer.
THINKS, THOUGHT = "<unused94>", "<unused95>"

# A first line that holds nothing but the answer is the answer: what a model writes on below it, often the next exam question, is not.
BARE = re.compile(
    r"\s*(?:[*\"'`]*([A-E])[*\"'`]*|"
    r"(?:\*\*)?(?:정답|답|[Aa]nswer)\s*(?:은|는|is)?[\s:*]*[(\[\"']?([A-E])[)\]\"']?\s*번?\s*(?:입니다|이다)?\.?(?:\*\*)?)[ \t]*\n"
)
ECHOES = tuple(prompt.echo for prompt in PROMPTS.values())


def thought_ids(tokenizer) -> list[int]:
    """The ids that begin and end a thought; none where the vocabulary has no such tokens."""
    ids = tokenizer.convert_tokens_to_ids([THINKS, THOUGHT])
    return [] if None in ids or tokenizer.unk_token_id in ids else ids


def without_thought(text: str) -> str | None:
    """A model's turn without its thoughts; None where one never ends. A turn that only ends one had it opened by the template."""
    text = re.sub(f"{THINKS}.*?{THOUGHT}", "", text, flags=re.DOTALL).rsplit(THOUGHT, 1)[-1]
    return None if THINKS in text else text.lstrip()


def opening(text: str) -> str:
    """A turn up to its end, behind the thoughts that it begins with; a thought that has not ended stays."""
    text = ENDS.split(text.lstrip(), maxsplit=1)[0]
    while text.startswith(THINKS) and THOUGHT in text:
        text = text.split(THOUGHT, 1)[1].lstrip()
    return text


def settled(text: str) -> bool:
    """Whether `read_answer` finds the same in a turn whatever is written behind `text`: it has ended, or its first line decides."""
    body = opening(text)
    return bool(ENDS.search(text.lstrip())) or bool(BARE.match(body)) or body.startswith(ECHOES)


def why_unreadable(text: str) -> str:
    """Why `read_answer` finds no option: `thought never ends`, `reasoning never ends`, `repeats the question` or `no option chosen`."""
    body = opening(text)
    answer = without_thought(body)
    if answer is None:
        return "thought never ends"
    if body.startswith(ECHOES):
        return "repeats the question"
    return "reasoning never ends" if "<reasoning>" in answer and "</reasoning>" not in answer else "no option chosen"


def read_answer(text: str) -> str | None:
    """The option that a model's turn chooses, A to E, or None where it cannot be told.

    A first line that is nothing but the answer decides, and a turn that repeats the instruction has none. Else only what stands
    behind the thoughts and the last </reasoning> counts. In order: the last "정답은 X", the last "X가 정답", a letter that opens
    the answer, the only letter in it. A guess is never made: several letters and no statement give None, and so does an answer
    that only says what is wrong.
    """
    body = opening(text)
    if bare := BARE.match(body):
        return bare.group(1) or bare.group(2)
    answer = without_thought(body)
    if answer is None or body.startswith(ECHOES):
        return None
    text = unicodedata.normalize("NFKC", answer)
    if "</reasoning>" in text:
        text = text.rsplit("</reasoning>", 1)[1]
    elif "<reasoning>" in text:
        return None  # cut off before it came to an answer
    text = text.strip()
    if re.fullmatch(r"[(\[]?[a-e][)\].]?", text):
        return text.strip("()[].").upper()
    text = NEGATED_ENGLISH.sub("", NEGATED.sub("", RANGE.sub("", text)))
    stated = list(STATED.finditer(text))
    if stated:
        return None if stated[-1].group(2) else stated[-1].group(1).upper()
    if confirmed := CONFIRMED.findall(text):
        return confirmed[-1]
    if SEVERAL.search(text) or len(set(LISTED.findall(text))) > 1:
        return None
    if leading := LEADING.match(text):
        return leading.group(1)
    letters = set(LETTER.findall(text))
    return letters.pop() if len(letters) == 1 else None

"""Every word said to a model, and how its answer is read back.

Training and evaluation render through the same `conversation_ids`, in the chat template of the model's own tokenizer, so
that the prompt of an evaluation is a prefix of the training text, token for token.
"""

import re
import unicodedata
from collections.abc import Iterable

LETTERS = "ABCDE"
IGNORED = -100  # a label that the loss does not count

SHORT = "정답 알파벳만 답하세요 (A, B, C, D, E 중 하나)."
REASONED = "Reasoning 후 정답 알파벳 하나만 답하세요."
STEPS = ("첫째", "둘째", "셋째", "넷째")


def dictionary_prompt(term: str) -> str:
    return f"Meaning of word {term}:"


def exam_prompt(question: dict, reasoned: bool = False) -> str:
    """The user's turn for a question of the refined format ({"question", "A" … "E"})."""
    options = "\n".join(f"{letter}) {question[letter]}" for letter in LETTERS)
    return f"{REASONED if reasoned else SHORT}\n\n{question['question']}\n{options}"


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
CONCLUSION = re.compile(r"[^.!?\n]*정답은\s*\(?([A-E])\)?\s*(?:입니다|이다)\.?\s*$")


def reasoning_sentences(cot: str) -> list[str]:
    """The sentences of a written-out reasoning, without its opening phrase and its conclusion."""
    text = CONCLUSION.sub("", OPENER.sub("", cot.strip())).strip()
    return [s.strip() for s in re.split(r"(?<=[다요음임]\.)\s+|\n+", text) if s.strip()]


def conclusion_letter(cot: str) -> str | None:
    """The letter that a written-out reasoning ends in, or None."""
    found = CONCLUSION.search(cot.strip())
    return found.group(1) if found else None


def conversation_ids(tokenizer, prompt: str, answer: str | None = None) -> tuple[list[int], list[int]]:
    """Token ids and labels of one turn each of user and model, in the tokenizer's own chat template.

    Labels are IGNORED but for the answer and its <end_of_turn>; without an answer the ids end where the model begins to
    write. Prompt and answer are encoded apart, so that the ids of the one don't depend on the other.
    """
    user = [{"role": "user", "content": prompt}]
    head = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(head, add_special_tokens=False)["input_ids"]  # the template writes the one <bos> itself
    if answer is None:
        return ids, [IGNORED] * len(ids)
    whole = tokenizer.apply_chat_template([*user, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(head):
        raise ValueError("this tokenizer's chat template does not continue its own generation prompt")
    # the template's newline after <end_of_turn> belongs to the next turn: a model stops before it
    completion = tokenizer(whole[len(head) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
    return ids + completion, [IGNORED] * len(ids) + completion


def stop_ids(tokenizer) -> list[int]:
    """The ids that end a model's turn: <end_of_turn> and <eos>."""
    return [tokenizer.convert_tokens_to_ids("<end_of_turn>"), tokenizer.eos_token_id]


# A letter that stands for an option: no Latin letter or digit touches it, it is not the A of "A patient", the E of
# "E. coli", the C of "비타민 C" or the B of "B형".
OPTION = r"(?<![A-Za-z0-9])(?<!비타민 )(?<!비타민)([A-E])(?![A-Za-z0-9'’+\-])(?!\.? [a-z])(?!형)"
STATED = re.compile(
    r"(?:정답|답안|답|[Aa]nswer)\s*(?:은|는|이|가|is)?\s*(?:\"|'|:|：|=|-|→|\s)*(?:선택지|보기|option)?\s*[\[(*\"'「<]*" + OPTION
)
CONFIRMED = re.compile(OPTION + r"[)\]*\"'」>]*\s*(?:번)?\s*(?:이|가)\s*(?:정답|맞|옳|적절)")
LEADING = re.compile(
    r"^[\s\[(*\"'「<#\-:]*"
    + OPTION
    + r"(?=$|[\s)\].,:;*\"'」>!]|번|입니다|이다|예요|이에요|임)(?!\s*(?:와|과|나|또는|및|or|and|,)\s*[A-E])"
)
LETTER = re.compile(OPTION)
ENDS = re.compile(r"<end_of_turn>|<eos>|<start_of_turn>")


def read_answer(text: str) -> str | None:
    """The option that a model's turn chooses, A to E, or None where it cannot be told.

    Only what stands behind the last </reasoning> counts. In order: the last "정답은 X", the last "X가 정답", a letter that
    opens the answer, the only letter in it. A guess is never made: two letters and no statement give None.
    """
    text = unicodedata.normalize("NFKC", text)
    if "</reasoning>" in text:
        text = text.rsplit("</reasoning>", 1)[1]
    elif "<reasoning>" in text:
        return None  # cut off before it came to an answer
    text = ENDS.split(text.lstrip())[0].strip()
    if re.fullmatch(r"[(\[]?[a-e][)\].]?", text):
        return text.strip("()[].").upper()
    for pattern in (STATED, CONFIRMED):
        found = pattern.findall(text)
        if found:
            return found[-1]
    found = LEADING.search(text)
    if found:
        return found.group(1)
    letters = set(LETTER.findall(text))
    return letters.pop() if len(letters) == 1 else None


def packed(tokenizer, texts: Iterable[str], length: int) -> Iterable[list[int]]:
    """Rows of exactly `length` ids: <bos>, then the next piece of all texts in a row with <eos> after each.

    Every row starts with <bos>, also where it goes on with a text, because Gemma was never trained on a row without one.
    What does not fill a last row is left out (at most `length` - 2 tokens).
    """
    buffer: list[int] = []
    room = length - 1
    for text in texts:
        buffer += tokenizer(text, add_special_tokens=False)["input_ids"]
        buffer.append(tokenizer.eos_token_id)
        while len(buffer) >= room:
            yield [tokenizer.bos_token_id, *buffer[:room]]
            del buffer[:room]

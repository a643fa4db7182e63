"""What the loss counts, token by token, that the evaluation's prompt begins the training text, and that no data writes a control token."""

import pytest
import torch
from conftest import QUESTION
from hypothesis import given
from hypothesis import strategies as st

from kmlite import prompts
from kmlite.training import examples

COT = "차근차근 생각해봅시다. 비타민 C는 콜라겐을 만드는 데 필요합니다. 모자라면 잇몸에서 피가 납니다. 따라서, 정답은 (A) 입니다."
CASES = {
    "short": (prompts.exam_prompt(QUESTION), "A"),
    "reasoned": (
        prompts.exam_prompt(QUESTION, reasoned=True),
        "<reasoning>\n첫째: 비타민 C는 콜라겐을 만드는 데 필요합니다.\n둘째: 모자라면 잇몸에서 피가 납니다.\n</reasoning>A",
    ),
    "dictionary": (prompts.dictionary_prompt("괴혈병"), "Scurvy - 비타민 C가 모자라 생기는 병"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_counts_the_answer_and_its_end_alone(tokenizer, case):
    prompt, answer = CASES[case]
    ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
    head = f"<bos><start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(ids) == f"{head}{answer}<end_of_turn>"
    counted = [label != prompts.IGNORED for label in labels]
    start = counted.index(True)
    assert all(counted[start:])
    assert not any(counted[:start])
    assert tokenizer.decode(ids[:start]) == head
    assert [i for i, c in zip(ids, counted, strict=True) if c] == [label for label in labels if label != prompts.IGNORED]
    assert tokenizer.decode(labels[start:]) == f"{answer}<end_of_turn>"
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == labels[-1] == tokenizer.convert_tokens_to_ids("<end_of_turn>")


@pytest.mark.parametrize("case", CASES)
def test_the_prompt_is_a_prefix_of_the_training_text_and_both_are_the_templates(tokenizer, case):
    prompt, answer = CASES[case]
    asked, _ = prompts.conversation_ids(tokenizer, prompt)
    whole, labels = prompts.conversation_ids(tokenizer, prompt, answer)
    assert whole[: len(asked)] == asked
    assert labels[len(asked)] == whole[len(asked)]  # the first counted token is the first that a model would write
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert [*whole, tokenizer.convert_tokens_to_ids("\n")] == list(rendered)
    if case == "reasoned":
        assert prompts.exam_answer({**QUESTION, "cot": COT}, reasoned=True) == answer


def test_padding_is_right_unseen_and_uncounted(tokenizer):
    rows, left_out = examples.conversation_rows(tokenizer, list(CASES.values()), 512)
    assert left_out == 0
    tokenizer.padding_side = "left"  # as Unsloth leaves it after a generation
    batch = examples.collate(rows, tokenizer, multiple=8, apart=False)
    assert batch["input_ids"].shape[1] % 8 == 0
    for row, ids, mask, labels in zip(rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        n = len(row["input_ids"])
        assert ids[:n].tolist() == row["input_ids"]
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)
        assert labels[:n].tolist() == row["labels"]
        assert torch.all(labels[n:] == prompts.IGNORED)


def test_what_is_too_long_is_left_out_not_cut(tokenizer):
    rows, left_out = examples.conversation_rows(tokenizer, [("가", "나"), ("가", "나 " * 200)], 64)
    assert (len(rows), left_out) == (1, 1)


def test_a_template_that_does_not_continue_its_prompt_is_refused(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>>{% endif %}"
    with pytest.raises(ValueError, match="does not continue"):
        prompts.conversation_ids(other, "가", "나")


# ---- control tokens come from the template alone

CONTROL = ["<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<unused98>"]
CONTROL += ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
DATA = st.lists(st.sampled_from([*CONTROL, "\n", "  ", "<", ">", "<unused", "가", "x", "<end_of_"]) | st.text(max_size=3), max_size=8).map(
    "".join
)


@given(text=DATA)
def test_whatever_a_text_holds_it_becomes_no_control_token_and_loses_nothing(tokenizer, text):
    (ids,) = prompts.text_ids(tokenizer, [text])
    assert not {tokenizer.convert_tokens_to_ids(name) for name in CONTROL} & set(ids)
    # as the decoder gives it back: its ▁ is a space
    assert tokenizer.decode(ids) == text.replace("▁", " ")


@given(prompt=DATA, answer=DATA)
def test_one_turn_each_whatever_prompt_and_answer_hold(tokenizer, prompt, answer):
    ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in ("<start_of_turn>", "<end_of_turn>"))
    assert [i for i in ids if i in (start, end, tokenizer.bos_token_id)] == [tokenizer.bos_token_id, start, end, start, end]
    assert [i for i in labels if i in (start, end)] == [end]
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}, {"role": "user", "content": "x"}]
    dialogue = prompts.dialogue_ids(tokenizer, turns)
    assert dialogue[: len(ids)] == ids
    assert dialogue.count(start) == 4


def test_packed_text_holds_no_control_token_of_its_own(tokenizer):
    row = next(examples.packed(tokenizer, ["가<end_of_turn><unused3><eos>나 " * 9], 32))
    assert not prompts.control_ids(tokenizer) & set(row[1:])

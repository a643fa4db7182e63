"""The letter's weight in the loss: where it falls, and the same gradient however the batch is cut."""

import dataclasses

import pytest

from kmlite import prompts
from kmlite.models import loading
from kmlite.training import examples, loss, trainer
from recipes import stage2

QUESTION = {"question": "비타민 C가 부족하면?", "A": "괴혈병", "B": "각기병", "C": "구루병", "D": "펠라그라", "E": "야맹증", "answer": "C"}
COT = {**QUESTION, "cot": "비타민 C는 콜라겐을 엮는 데 쓰입니다. B는 티아민 결핍입니다. 따라서, 정답은 (C) 입니다."}
QUESTIONS = [
    (QUESTION, False),
    ({**QUESTION, "question": "가장 먼저 할 처치는 무엇인가?"}, False),
    (COT, True),
    ({**QUESTION, "answer": "A"}, False),
]


@pytest.fixture(scope="module")
def rows(tokenizer):
    pairs = [(prompts.exam_prompt(q, reasoned), prompts.exam_answer(q, reasoned)) for q, reasoned in QUESTIONS]
    return examples.conversation_rows(tokenizer, pairs, 512)[0]


def test_the_weight_falls_on_the_letter_in_both_forms(rows, tokenizer):
    batch = examples.collate(rows, tokenizer, 1, False)
    weights = loss.token_weights(batch["labels"], tokenizer.convert_tokens_to_ids("<end_of_turn>"), 3)
    heavy = [tokenizer.decode(ids[row == 3]) for ids, row in zip(batch["input_ids"], weights, strict=True)]
    assert heavy == [q["answer"] for q, _ in QUESTIONS]
    assert ((weights == 0) == (batch["labels"] == prompts.IGNORED)).all()
    assert set(weights.unique().tolist()) == {0, 1, 3}


@pytest.fixture(scope="module")
def adapted(base):
    import torch

    loaded, tokenizer = loading.load(base, "16bit", 512)
    with_lora = loading.add_lora(loaded, r=8, alpha=8, dropout=0, seed=0)
    torch.manual_seed(0)
    for name, weight in with_lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)  # zero as it begins, and then half of the gradients were zero
    return with_lora, tokenizer


def one_step(batch: int, accumulation: int, **more) -> stage2.Settings:
    """Settings of one optimizer step that changes nothing."""
    one = {"batch": batch, "accumulation": accumulation, "max_steps": 1, "epochs": 1, "learning_rate": 0.0}
    return dataclasses.replace(stage2.Settings(), **one, **more)


def gradients(adapted, rows, tmp_path, monkeypatch, batch: int, accumulation: int, weight: float) -> dict:
    """The gradients of the first optimizer step, as they are before clipping."""
    from accelerate import Accelerator

    found: dict = {}

    def note(self, parameters, *args, **kwargs):
        if found:  # asked again, for the log
            return
        found.update({name: p.grad.clone() for name, p in adapted[0].named_parameters() if p.requires_grad})
        for p in adapted[0].parameters():
            p.grad = None  # so that the step changes nothing and the next run begins from the same weights

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "clip_grad_norm_", note)
        trainer.train(*adapted, rows, tmp_path, one_step(batch, accumulation), trainer.Task(order="sequential", answer_weight=weight))
    assert found
    return found


def by_hand(adapted, rows, weight: float) -> dict:
    """The gradients of Σ wᵢ·lossᵢ / Σ wᵢ, row by row and token by token."""
    import torch

    network = adapted[0]
    total, weights = 0.0, 0.0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        logs = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().log_softmax(-1)
        counted = [i for i, label in enumerate(row["labels"]) if label != prompts.IGNORED]
        for i in counted:
            w = weight if i == counted[-2] else 1.0  # the letter, and behind it <end_of_turn>
            total, weights = total - w * logs[i - 1, row["labels"][i]], weights + w
    (total / weights).backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
    for p in network.parameters():
        p.grad = None
    return found


def agree(a: dict, b: dict) -> float:
    """The largest difference, as a share of the largest gradient."""
    largest = max(float(x.abs().max()) for x in a.values())
    assert largest > 0
    return max(float((a[name] - b[name]).abs().max()) for name in a) / largest


def test_the_gradient_is_the_weighted_mean_however_the_batch_is_cut(adapted, rows, tmp_path, monkeypatch):
    expected = by_hand(adapted, rows, 3)
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        found = gradients(adapted, rows, tmp_path / f"{batch}", monkeypatch, batch, accumulation, weight=3)
        assert agree(expected, found) < 1e-4, (batch, accumulation)
    assert agree(expected, by_hand(adapted, rows, 1)) > 0.05  # the weight does something


def test_the_gradient_is_the_same_where_the_trainer_divides_by_the_number_of_batches(adapted, rows, tmp_path, monkeypatch):
    """What transformers does for a model that takes no count of tokens; Unsloth's backends differ in what they declare."""

    def divides(kind, weight, end):
        class Divides(loss.in_pieces(kind, weight, end)):
            def training_step(self, *args, **kwargs):
                self.model_accepts_loss_kwargs = False
                return super().training_step(*args, **kwargs)

        return Divides

    monkeypatch.setattr(trainer, "in_pieces", divides)
    assert agree(by_hand(adapted, rows, 3), gradients(adapted, rows, tmp_path, monkeypatch, 1, 4, weight=3)) < 1e-4


def test_dev_loss_is_unweighted(adapted, rows, tmp_path):
    def losses(weight: float) -> list[float]:
        task = trainer.Task(eval_rows=rows, order="sequential", answer_weight=weight)
        result = trainer.train(*adapted, rows, tmp_path / str(weight), one_step(2, 2, eval_every=1), task)
        return [entry["eval_loss"] for entry in result["curve"] if "eval_loss" in entry]

    assert losses(1) == pytest.approx(losses(5), rel=1e-6)


def test_a_batch_without_a_counted_token_costs_nothing():
    import torch

    states = torch.zeros(0, 4, requires_grad=True)
    total = loss.chunked_cross_entropy(states, torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.randn(9, 4))
    total.backward()
    assert (total.item(), states.grad.shape) == (0.0, (0, 4))

"""Studies on a real Gemma 3 (270M, text only) that decide defaults: new tokens and their starts, rates, replay, wordings, option order.

    .venv/bin/python -m benchmarks.real study BASE REFINED ENGLISH     run what benchmarks/results/real.jsonl lacks, most important first
    .venv/bin/python -m benchmarks.real table                          the tables of docs/evidence.md

BASE is a folder of google/gemma-3-270m, REFINED what `make refine` wrote, ENGLISH a folder of .txt files (replay, and English held out).
A cell is one line of the results; a killed study goes on at the cell that it was in. All cells run in float32 on one thread.

Not the recipes' trainer but a loop of 20 lines with the recipes' LoRA, since the machine that ran it makes 20 GFLOP/s: sequences
are single chunks of text, and logits are made for the ids that stand anywhere in the study's texts (`kept`), the same for all cells.
"""

import json
import math
import os
import platform
import random
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from kmlite import paths, prompts, records
from kmlite.models import starts as kmlite_starts
from kmlite.models import vocabulary
from kmlite.refine import readers

RESULTS = Path(__file__).parent / "results" / "real.jsonl"
OUT = paths.ROOT / "model/benchmarks/real"
RANK, SCALE, RATE = 64, 16.0, 2e-5  # stage 0's
BATCH = 16  # snippets at once
CHUNK = 400  # characters of a training text
EXAM_SHARE = 0.5  # of the words that choose merges


def load(base: Path, refined: Path, english: Path) -> SimpleNamespace:
    """The model, its tokenizer, the texts of the study, and the ids whose logits are made."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    order = random.Random(0)
    train = list(records.read_texts(sorted((refined / "00_plain_text").glob("train*.jsonl"))))
    order.shuffle(train)
    held = [text[:130] for text in records.read_texts([refined / "00_plain_text/heldout.jsonl"])]
    held = held[::2]  # 36 of 72: the machine was shared by ten processes
    exam = {split: records.read_exam(refined, split) for split in ("train", "dev")}
    for questions in exam.values():
        order.shuffle(questions)
    subjects: dict[str, list[dict]] = {}
    for question in exam["dev"]:
        subjects.setdefault(question["subject"], []).append(question)
    questions = [asked(q) for _, listed in sorted(subjects.items()) for q in listed[:4]]
    speeches = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(english.glob("19[5-9]*.txt"))]
    paragraphs = [p[:CHUNK] for text in speeches for p in text.split("\n\n") if len(p) > 200]
    order.shuffle(paragraphs)
    texts = {"korean": held, "exam": questions, "english": [p[:200] for p in paragraphs[:12]]}
    study = SimpleNamespace(base=base, model=model, tokenizer=tokenizer, texts=texts, train=train, exam=exam, replay=paragraphs[12:])
    study.matrix = model.get_input_embeddings().weight.detach()
    note = OUT / "kept.json"  # ids that stand in any text of the study, and those of the chat template
    if not note.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        listed = [*train, *held, *(text[:CHUNK] for text in train), *(text for kind in texts.values() for text in kind)]
        listed += [
            *(asked(q) for part in exam.values() for q in part),
            *(prompts.exam_prompt(q) for part in exam.values() for q in part),
            *paragraphs,
        ]
        used = {i for e in tokenizer.backend_tokenizer.encode_batch(listed, add_special_tokens=False) for i in e.ids}
        note.write_text(json.dumps(sorted(used | {*range(10), *prompts.stop_ids(tokenizer), tokenizer.bos_token_id, 105, 106})))
    kept = json.loads(note.read_text())
    study.lut = torch.full((len(study.matrix),), -1)
    study.lut[kept] = torch.arange(len(kept))
    study.head = study.matrix[kept].clone()
    study.kept = kept
    study.repeated = [[order.choice(kept[300:]) for _ in range(24)] for _ in range(8)]
    return study


def asked(question: dict) -> str:
    """A question with its options, as text."""
    return prompts.exam_prompt(question).split("\n\n", 1)[1]


# ---- the model with rows beside its matrix


def states(study, body, sequences: list[list[int]], rows=None):
    """Last hidden states [batch, longest, width] of right-padded sequences; ids from the matrix's length on look up `rows`."""
    import torch
    from torch.nn.functional import embedding

    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    size = len(study.matrix)
    found = embedding(ids.clamp(max=size - 1), study.matrix)
    if rows is not None:
        found = torch.where((ids >= size)[..., None], embedding((ids - size).clamp(0), rows), found)
    return body(inputs_embeds=found * study.matrix.shape[1] ** 0.5, attention_mask=mask, use_cache=False).last_hidden_state


def token_losses(study, hidden, targets: list[int], rows=None):
    """Cross-entropy [tokens], in nats, of `targets` after states [tokens, width], over the kept ids and the new rows."""
    import torch
    from torch.nn.functional import cross_entropy

    size = len(study.matrix)
    places = torch.tensor([len(study.kept) + t - size if t >= size else int(study.lut[t]) for t in targets])
    assert int(places.min()) >= 0, "a target is not among the kept ids"
    logits = hidden @ study.head.T
    if rows is not None:
        logits = torch.cat([logits, hidden @ rows.T], 1)
    return cross_entropy(logits, places, reduction="none")


def text_nats(study, body, encode, texts: list[str], rows=None, batch: int = 6) -> list[float]:
    """Nats of each text."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    nats = [0.0] * len(texts)
    for start in range(0, len(order), batch):
        at = order[start : start + batch]
        sequences = [[study.tokenizer.bos_token_id, *ids] for ids in encode([texts[i] for i in at])]
        with torch.no_grad():
            hidden = states(study, body, sequences, rows)
            for row, i in enumerate(at):
                n = len(sequences[row])
                nats[i] = float(token_losses(study, hidden[row, : n - 1], sequences[row][1:], rows).sum())
    return nats


def measure(study, body, encode, rows=None, kinds=("korean", "exam", "english", "copying")) -> dict:
    """Bits and characters of each text by kind, and how a repeated string of random tokens is copied."""
    import torch

    out: dict = {}
    for kind in kinds:
        if kind == "copying":
            sequences = [[study.tokenizer.bos_token_id, *ids, *ids] for ids in study.repeated]
            with torch.no_grad():
                hidden = states(study, body, sequences, rows)[:, 24:-1].flatten(0, 1)
                targets = [i for ids in study.repeated for i in ids]
                losses = token_losses(study, hidden, targets, rows)
            bits = losses.view(len(sequences), 24)[:, 1:].mean(1) / math.log(2)
            out[kind] = {"bits": [round(float(b), 4) for b in bits], "characters": [1] * len(bits)}
        else:
            nats = text_nats(study, body, encode, study.texts[kind], rows)
            out[kind] = {"bits": [round(n / math.log(2), 3) for n in nats], "characters": [len(t) for t in study.texts[kind]]}
    return out


def encoder(tokenizer):
    return lambda texts: [e.ids for e in tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)]


# ---- new tokens


def extension(study, count: int, exam_share: float):
    """(merges, encode with them) chosen from text and exam train, and what they save."""
    from transformers import AutoTokenizer

    cache = OUT / f"{count}-{exam_share}"
    if not cache.exists():
        text = vocabulary.count_words(study.train)
        exam = vocabulary.count_words(asked(q) for q in study.exam["train"])
        sums = sum(text.values()), sum(exam.values())
        words: Counter = Counter({w: n * (1 - exam_share) / sums[0] * 1e8 for w, n in text.items()})
        for word, n in exam.items():
            words[word] += n * exam_share / sums[1] * 1e8
        merges = vocabulary.choose_merges({w: round(n) for w, n in words.items()}, study.tokenizer, count)
        for name in ("tokenizer_config.json", "config.json"):
            (cache.with_suffix(".partial")).mkdir(parents=True, exist_ok=True)
            (cache.with_suffix(".partial") / name).write_bytes((study.base / name).read_bytes())
        extended = json.loads((study.base / "tokenizer.json").read_text())
        vocabulary.extend_tokenizer(extended, merges)
        (cache.with_suffix(".partial") / "tokenizer.json").write_text(json.dumps(extended, ensure_ascii=False))
        (cache.with_suffix(".partial") / "merges.json").write_text(json.dumps([list(m) for m in merges]))
        cache.with_suffix(".partial").rename(cache)
    merges = [vocabulary.Merge(*m) for m in json.loads((cache / "merges.json").read_text())]
    tokenizer = AutoTokenizer.from_pretrained(cache)
    first = tokenizer.convert_tokens_to_ids(merges[0].left + merges[0].right)
    size = len(study.matrix)
    inner = encoder(tokenizer)

    def encode(texts):
        return [[i - first + size if i >= first else i for i in ids] for ids in inner(texts)]

    dev = [asked(q) for q in study.exam["dev"]]
    saved = {}
    for name, texts in (("korean", study.train[:300]), ("exam", dev)):
        before, after = (sum(map(len, e(texts))) for e in (encoder(study.tokenizer), encode))
        saved[name] = round(1 - after / before, 4)
    return merges, encode, saved


def pieces_of(study, merges) -> list[list[int]]:
    """The old ids that each new token stands for."""
    found: dict[str, list[int]] = {}
    vocab = study.tokenizer.get_vocab()
    for merge in merges:
        found[merge.left + merge.right] = [i for side in merge[:2] for i in found.get(side, [vocab.get(side)])]
    return list(found.values())


def snippets(study, encode, count: int, budget: int, left: int = 10, right: int = 5) -> list[list[int]]:
    """Windows of ids around new tokens, `budget` ids in all, chosen so that each new token stands in one, then in two, four, eight."""
    texts = [text[:CHUNK] for text in study.train[:2500]] + [asked(q) for q in study.exam["train"]]
    random.Random(1).shuffle(texts)
    encoded = encode(texts)
    first = len(study.matrix)
    seen: Counter = Counter()
    chosen: dict[tuple[int, int], list[int]] = {}
    spent = 0
    for needed in (1, 2, 4, 8):
        for number, ids in enumerate(encoded):
            for i, token in enumerate(ids):
                if token >= first and i >= 4 and seen[token] < needed and (number, i) not in chosen:
                    window = ids[max(0, i - left) : i + right + 1]
                    chosen[number, i] = window
                    seen.update(t for t in window if t >= first)
                    spent += len(window)
                    if spent >= budget:
                        return list(chosen.values())
    return list(chosen.values())


def trained_rows(study, merges, encode, start, budget: int, between=None):
    """Rows that started as `start` and were fitted to what the old pieces do.

    First the head's side alone, which is convex: hidden states of the model over snippets in the OLD tokens are kept, and the rows
    (start, a shared linear map, a shared shift, a difference of each row's own) learn to be predicted there. Then the
    input's side too (Token Distillation, arXiv 2505.20133): states over the snippet in the new tokens are to match those in the old.
    """
    import torch

    pieces, size, bos = pieces_of(study, merges), len(study.matrix), study.tokenizer.bos_token_id
    new = snippets(study, encode, len(merges), budget)
    random.Random(2).shuffle(new)
    old = [[i for t in ids for i in (pieces[t - size] if t >= size else [t])] for ids in new]
    ends = []  # of the state behind each new token in the old sequence; 0 is behind <bos>
    for after in new:
        at = [0]
        for t in after:
            at.append(at[-1] + (len(pieces[t - size]) if t >= size else 1))
        ends.append(at)
    teacher, kept_states, totals, targets = [], [], [], []
    with torch.no_grad():
        for start_at in range(0, len(new), BATCH):
            part = range(start_at, min(len(new), start_at + BATCH))
            hidden = states(study, study.model.model, [[bos, *old[i]] for i in part])
            for row, i in enumerate(part):
                mine = hidden[row, ends[i]]
                teacher.append(mine)
                kept_states.append(mine[:-1])
                logits = mine[:-1] @ study.head.T
                totals.append(torch.stack([logits.logsumexp(1), torch.zeros(len(logits))], 1))
                places = [int(study.lut[t]) if t < size else -1 for t in new[i]]
                totals[-1][:, 1] = logits.gather(1, torch.tensor(places).clamp(0)[:, None])[:, 0]
                targets += [t - size if t >= size else -1 for t in new[i]]
    seen, totals, targets = torch.cat(kept_states), torch.cat(totals), torch.tensor(targets)
    width = start.shape[1]
    free = [
        torch.zeros(width, width, requires_grad=True),
        torch.zeros(width, requires_grad=True),
        torch.zeros_like(start, requires_grad=True),
    ]

    def rows():
        return start + start @ free[0] + free[1] + free[2]

    def head_loss(at):
        logits = seen[at] @ rows().T
        total = torch.logaddexp(totals[at, 0], logits.logsumexp(1))
        hit = torch.where(targets[at] >= 0, logits.gather(1, targets[at].clamp(0)[:, None])[:, 0], totals[at, 1])
        return (total - hit).mean()

    # the last 15% of the positions choose the step that the head's side stops at
    border = int(0.85 * len(seen))
    optimizer = torch.optim.Adam([{"params": free[:2], "lr": 3e-5, "top": 3e-5}, {"params": free[2:], "lr": 3e-4, "top": 3e-4}])
    note: dict = {"snippets": len(new), "tokens": len(targets), "new_seen": len(set(targets.tolist()) - {-1}), "head_loss": {}}
    chance = torch.Generator().manual_seed(0)
    best, steps = (math.inf, [w.detach().clone() for w in free]), 300
    for step in range(steps + 1):
        if step % 50 == 0:
            with torch.no_grad():
                found = float(head_loss(torch.arange(border, len(seen))))
            note["head_loss"][step] = round(found, 4)
            if found < best[0]:
                best = (found, [w.detach().clone() for w in free])
        at = torch.randint(border, (512,), generator=chance)
        loss = head_loss(at) + 0.05 * free[2].pow(2).sum(1).mean()
        descend(optimizer, loss, 1 - step / (steps + 1))
    with torch.no_grad():
        for weight, kept in zip(free, best[1], strict=True):
            weight.copy_(kept)
    if between:
        note["between"] = between(rows().detach())
    optimizer = torch.optim.Adam([{"params": free[:2], "lr": 1e-5, "top": 1e-5}, {"params": free[2:], "lr": 2e-4, "top": 2e-4}])
    batches = [list(range(i, min(len(new), i + BATCH))) for i in range(0, len(new), BATCH)]
    note["deep"] = []
    for step, part in enumerate(batches):
        now = rows()
        hidden = states(study, study.model.model, [[bos, *new[i]] for i in part], now)
        mine = [hidden[row, : len(new[i]) + 1] for row, i in enumerate(part)]
        apart = torch.cat([((m - teacher[i]).pow(2).sum(1) / teacher[i].pow(2).sum(1))[1:] for m, i in zip(mine, part, strict=True)]).mean()
        predicted = token_losses(study, torch.cat([m[:-1] for m in mine]), [t for i in part for t in new[i]], now).mean()
        note["deep"].append([round(float(apart), 4), round(float(predicted), 3)])
        descend(optimizer, predicted + 10 * apart, 1 - step / len(batches))
    note["deep"] = [[round(sum(v[k] for v in part) / len(part), 4) for k in (0, 1)] for part in (note["deep"][:10], note["deep"][-10:])]
    return rows().detach(), note


def descend(optimizer, loss, share: float) -> None:
    """One step at `share` of each group's top rate."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * share
    optimizer.step()


# ---- training


def adapted(study, seed: int = 0):
    """(the text model with stage 0's LoRA, its trainable weights); `detach` takes it off again."""
    import torch
    from peft import LoraConfig, get_peft_model

    from kmlite.models.loading import TEXT_PROJECTIONS

    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=128, use_rslora=True, lora_dropout=0.05, target_modules=TEXT_PROJECTIONS)
    network = get_peft_model(study.model, config)
    return network, [w for w in network.parameters() if w.requires_grad]


def train(
    study, examples: list[tuple[list[int], list[bool]]], *, rate=RATE, rows=None, row_rate=2e-4, batch=2, loops=1, checks=None, seed=0
):
    """Train a LoRA (and `rows`) on (ids, which of them count) examples, cosine with warm-up; `checks`: {examples seen: measure}.

    The examples come in `loops` equal parts, each shuffled by itself and each with a schedule and an Adam of its own.

    Returns {"steps", "tokens", "loss" of the last fifth, "seconds", "checks": {tokens: what measure gave}}.
    """
    import torch

    network, weights = adapted(study, seed)
    body = network.base_model.model.model
    groups = [{"params": weights, "lr": rate, "top": rate, "weight_decay": 0.01}]
    if rows is not None:
        rows.requires_grad_(True)
        groups.append({"params": [rows], "lr": row_rate, "top": row_rate, "weight_decay": 0.0})
    chance, order = random.Random(seed), []
    for loop in range(loops):
        turn = list(range(len(examples) * loop // loops, len(examples) * (loop + 1) // loops))
        chance.shuffle(turn)
        order += turn
    steps, losses, tokens, found, spent, started = math.ceil(len(order) / batch), [], 0, {}, 0.0, time.time()
    length = math.ceil(steps / loops)  # of a schedule
    checks = dict(checks or {})
    for step in range(steps):
        if step % length == 0:
            optimizer = torch.optim.AdamW(groups)
        part = [examples[i] for i in order[step * batch : (step + 1) * batch]]
        network.train()
        hidden = states(study, body, [ids for ids, _ in part], rows)
        mine, targets = [], []
        for row, (ids, counted) in enumerate(part):
            at = [i for i in range(1, len(ids)) if counted[i]]
            mine.append(hidden[row, torch.tensor(at) - 1])
            targets += [ids[i] for i in at]
            tokens += len(ids)
        loss = token_losses(study, torch.cat(mine), targets, rows).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for g in groups for w in g["params"]], 1.0)
        warm, at = max(1, round(0.03 * length)), step % length
        for group in optimizer.param_groups:
            share = (at + 1) / warm if at < warm else 0.5 * (1 + math.cos(math.pi * (at - warm) / max(1, length - warm)))
            group["lr"] = group["top"] * share
        optimizer.step()
        losses.append(float(loss))
        done = min((step + 1) * batch, len(order))
        for at in [at for at in checks if at <= done]:
            network.eval()
            pause = time.time()
            found[str(tokens)] = checks.pop(at)(body, None if rows is None else rows.detach())
            spent += time.time() - pause
    last = losses[-max(1, steps // 5) :]
    network.unload()
    study.model.requires_grad_(False)
    seconds = time.time() - started - spent
    return {"steps": steps, "tokens": tokens, "loss": round(sum(last) / len(last), 4), "seconds": round(seconds), "checks": found}


def chunks(study, encode, tokens: int, replay: float = 0.0) -> list[tuple[list[int], list[bool]]]:
    """Examples of the text that takes `tokens` old tokens: equal text for every tokenizer; `replay`: share of English, on top."""
    old, bos, out, spent = encoder(study.tokenizer), study.tokenizer.bos_token_id, [], 0
    for text in study.train[2500:]:
        text = text[:CHUNK]
        out.append(encode([text])[0])
        spent += len(old([text])[0])
        if spent >= tokens:
            break
    budget = spent * replay / (1 - replay)
    for text in study.replay:
        if budget <= 0:
            break
        out.append(encode([text])[0])
        budget -= len(out[-1])
    return [([bos, *ids], [True] * (len(ids) + 1)) for ids in out]


# ---- the cells, most important first


def starts(study, count: int, start: str, exam_share: float = EXAM_SHARE) -> dict:
    """Korean and exam questions right after extension."""
    merges, encode, saved = extension(study, count, exam_share)
    look = lambda rows: measure(study, study.model.model, encode, rows, ("korean", "exam"))  # noqa: E731
    rows, note = started_rows(study, merges, encode, start, look)
    return {"saved": saved, "note": note, "at": ({"head alone": note.pop("between")} if "between" in note else {}) | {"0": look(rows)}}


def started_rows(study, merges, encode, start: str, between=None):
    """The rows of a start; the trained ones are kept on disk, since several cells begin with them."""
    import torch

    if start == "best":
        cost = {
            line["start"]: sum(sum(v["bits"]) for v in line["at"]["0"].values()) for line in read() if line["cell"].startswith("start 1000")
        }
        start = min((name for name in cost if name != "best"), key=cost.__getitem__)
    if start == "mean":
        return torch.stack([study.matrix[ids].mean(0) for ids in pieces_of(study, merges)]), {}
    if start == "fitted":
        return kmlite_starts.fitted_rows(study.matrix, study.tokenizer, merges), {"start": "fitted"}
    kept = OUT / f"trained-{len(merges)}.pt"
    if kept.exists():
        return torch.load(kept), {"start": "trained"}
    fitted = kmlite_starts.fitted_rows(study.matrix, study.tokenizer, merges)
    rows, note = trained_rows(study, merges, encode, fitted, 14000, between=between)
    torch.save(rows, kept)
    return rows, note


def base_cell(study) -> dict:
    import torch

    body, encode = study.model.model, encoder(study.tokenizer)
    with torch.no_grad():
        ids = [[study.tokenizer.bos_token_id, *i] for i in encode([t[:100] for t in study.texts["korean"][:6]])]
        hidden = states(study, body, ids)[0, : len(ids[0])]
        logits = hidden @ study.matrix.T
        mass = float((logits[:, study.kept].logsumexp(1) - logits.logsumexp(1)).exp().mean())
    return {"kept": len(study.kept), "mass": round(mass, 5), "at": {"0": measure(study, body, encode)}}


def text_cell(study, tokens: int, count: int = 0, start: str = "", rate: float = 1.0, replay: float = 0.0, seed: int = 0) -> dict:
    """Continued pretraining on equal text; measured in the middle and at the end."""
    encode, rows, note, saved = encoder(study.tokenizer), None, {}, {}
    if count:
        merges, encode, saved = extension(study, count, EXAM_SHARE)
        rows, note = started_rows(study, merges, encode, start)
    examples = chunks(study, encode, tokens, replay)
    kinds = ("korean", "exam", "english", "copying")
    checks = {
        len(examples) // 2: lambda b, r: measure(study, b, encode, r, kinds[:2]),
        len(examples): lambda b, r: measure(study, b, encode, r, kinds),
    }
    result = train(study, examples, rate=rate * RATE, rows=rows, checks=checks, seed=seed)
    at = result.pop("checks")
    return {"saved": saved, "note": note, "training": result, "at": at}


WORDINGS = ("Meaning of word {}:", "{}의 뜻을 설명하세요.", "의학 용어 '{}'은(는) 무엇입니까?")
REVERSE, UNSEEN = "다음 설명에 해당하는 용어를 쓰세요.\n{}", "{}(이)란?"


def keep_also(study, texts: list[str]) -> None:
    """Make logits for the ids of these texts, too."""
    import torch

    used = {i for e in study.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids}
    study.kept = sorted({*study.kept, *used})
    study.lut[study.kept] = torch.arange(len(study.kept))
    study.head = study.matrix[study.kept].clone()


def dictionary_cell(study, wordings: int, entries: int = 90) -> dict:
    """Four examples an entry: the seed's wording four times, or three wordings and the question the other way round, once each."""
    path = paths.SAMPLE_RAW / paths.RAW_DICTIONARY / "korean_medical_dict.jsonl"
    raws = [raw.value for raw in readers.read_raw(path, path.parent) if not raw.problem]
    listed = [e for e in raws if isinstance(e.get("term"), str) and isinstance(e.get("definition"), str) and len(e["definition"]) > 10]
    pairs = [(e["term"], e["definition"].replace("\n 세부설명 : ", ". ")) for e in listed]
    keep_also(study, [text for pair in pairs for text in pair])
    random.Random(0).shuffle(pairs)
    seen, unseen = pairs[:entries], pairs[-40:]

    def example(prompt: str, answer: str):
        ids, labels = prompts.conversation_ids(study.tokenizer, prompt, answer)
        return ids, [label != prompts.IGNORED for label in labels]

    turns = []
    for term, meaning in seen:
        asked_as = WORDINGS if wordings > 1 else WORDINGS[:1] * 4
        turns += [(asking.format(term), meaning) for asking in asked_as]
        if wordings > 1:
            turns.append((REVERSE.format(meaning), term))

    def look(body, rows=None) -> dict:
        import torch

        out = {}
        for name, asking, listed in (
            ("seen, seed's wording", WORDINGS[0], seen[:40]),
            ("seen, new wording", UNSEEN, seen[:40]),
            ("held out, seed's wording", WORDINGS[0], unseen),
            ("seen, reverse", REVERSE, seen[:40]),
        ):
            bits, characters = [], []
            for term, meaning in listed:
                question, answer = (meaning, term) if asking == REVERSE else (term, meaning)
                ids, counted = example(asking.format(question), answer)
                at = torch.tensor([i for i in range(len(ids)) if counted[i]])
                with torch.no_grad():
                    hidden = states(study, body, [ids])[0, at - 1]
                    bits.append(round(float(token_losses(study, hidden, [ids[i] for i in at]).sum()) / math.log(2), 3))
                characters.append(len(answer))
            out[name] = {"bits": bits, "characters": characters}
        return out

    before = look(study.model.model)
    result = train(study, [example(*turn) for turn in turns], batch=4, checks={len(turns): look})
    return {"training": result, "at": {"0": before, **result.pop("checks")}}


def exam_cell(study, shuffle: bool, passes: int = 2, loops: int = 1, questions: int = 320, dev: int = 200) -> dict:
    """Stage 2 on a part of KorMedMCQA's train, dev by letter: options in place or shuffled anew each pass, and `passes` in `loops` that
    start schedule and Adam anew, or under one schedule."""
    from kmlite.training.examples import shuffled

    chance = random.Random(0)
    letters = [study.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in prompts.LETTERS]

    def look(body, rows=None) -> dict:
        import torch

        right, chosen, bits = [], Counter(), []
        for question in study.exam["dev"][:dev]:
            ids, _ = prompts.conversation_ids(study.tokenizer, prompts.exam_prompt(question))
            with torch.no_grad():
                scores = (study.matrix[letters] @ states(study, body, [ids])[0, -1]).log_softmax(0)
            letter = prompts.LETTERS[int(scores.argmax())]
            chosen[letter] += 1
            right.append(int(letter == question["answer"]))
            bits.append(round(-float(scores[prompts.LETTERS.index(question["answer"])]) / math.log(2), 3))
        return {"dev by letter": {"right": right, "chosen": dict(chosen), "bits": bits}}

    examples = []
    for question in [q for _ in range(passes) for q in study.exam["train"][:questions]]:
        question = shuffled(question, chance) if shuffle else question
        ids, labels = prompts.conversation_ids(study.tokenizer, prompts.exam_prompt(question), prompts.exam_answer(question))
        examples.append((ids, [label != prompts.IGNORED for label in labels]))
    before = {} if shuffle or loops > 1 else {"0": look(study.model.model)}
    checks = {len(examples) * part // passes: look for part in range(1, passes + 1)}
    result = train(study, examples, batch=4, rate=1e-5, loops=loops, checks=checks)
    return {"training": result, "at": {**before, **result.pop("checks")}}


CELLS: dict[str, tuple] = {
    "base": (base_cell, {}),
    "start 1000 fitted": (starts, {"count": 1000, "start": "fitted"}),
    "start 1000 mean": (starts, {"count": 1000, "start": "mean"}),
    "start 500 fitted": (starts, {"count": 500, "start": "fitted"}),
    "start 5000 fitted": (starts, {"count": 5000, "start": "fitted"}),
    "start 1000 trained": (starts, {"count": 1000, "start": "trained"}),
    "text plain": (text_cell, {"tokens": 8000}),
    "text 1000 best": (text_cell, {"tokens": 8000, "count": 1000, "start": "best"}),
    "text replay 20%": (text_cell, {"tokens": 8000, "replay": 0.2}),
    "text rate 3x": (text_cell, {"tokens": 8000, "rate": 3.0}),
    "text rate 0.3x": (text_cell, {"tokens": 8000, "rate": 0.3}),
    "dictionary 1 wording": (dictionary_cell, {"wordings": 1}),
    "text plain, seed 1": (text_cell, {"tokens": 8000, "seed": 1}),
    "text 1000 best, seed 1": (text_cell, {"tokens": 8000, "count": 1000, "start": "best", "seed": 1}),
    "text replay 10%": (text_cell, {"tokens": 8000, "replay": 0.1}),
    "exam in place": (exam_cell, {"shuffle": False}),
    "dictionary 3 wordings and reverse": (dictionary_cell, {"wordings": 3}),
    "text plain, 30k": (text_cell, {"tokens": 30000}),
    "text 1000 best, 30k": (text_cell, {"tokens": 30000, "count": 1000, "start": "best"}),
    "exam shuffled": (exam_cell, {"shuffle": True}),
    "exam in place, 2 loops": (exam_cell, {"shuffle": False, "loops": 2}),
    "exam shuffled, 32 questions, 8 passes": (exam_cell, {"shuffle": True, "questions": 32, "passes": 8, "dev": 60}),
    "text rate 0.3x, 30k": (text_cell, {"tokens": 30000, "rate": 0.3}),
    "text plain, 100k": (text_cell, {"tokens": 100000}),
    "text 1000 best, 100k": (text_cell, {"tokens": 100000, "count": 1000, "start": "best"}),
    "text plain, seed 2": (text_cell, {"tokens": 8000, "seed": 2}),
    "text 1000 best, seed 2": (text_cell, {"tokens": 8000, "count": 1000, "start": "best", "seed": 2}),
    "text replay 20%, seed 1": (text_cell, {"tokens": 8000, "replay": 0.2, "seed": 1}),
    "text replay 20%, seed 2": (text_cell, {"tokens": 8000, "replay": 0.2, "seed": 2}),
    "text plain, 30k, seed 1": (text_cell, {"tokens": 30000, "seed": 1}),
    "text 1000 best, 30k, seed 1": (text_cell, {"tokens": 30000, "count": 1000, "start": "best", "seed": 1}),
}


def study(base: Path, refined: Path, english: Path) -> None:
    done = {line["cell"] for line in read()}
    ready = None
    for name, (work, settings) in CELLS.items():
        if name in done:
            continue
        ready = ready or load(base, refined, english)
        began = time.time()
        cpu = time.process_time()
        result = work(ready, **settings)
        line = {"cell": name, **settings, **result, "seconds": round(time.time() - began), "cpu_seconds": round(time.process_time() - cpu)}
        line |= {
            "machine": f"{platform.machine()}, {os.cpu_count()} shared cores, {os.environ.get('OMP_NUM_THREADS', 1)} threads",
            "precision": "float32",
        }
        line = {"seed": 0, **line}
        line["date"] = time.strftime("%Y-%m-%d")
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(name, line["seconds"], "s", {at: {kind: mean(found) for kind, found in point.items()} for at, point in result["at"].items()},
              result.get("note", ""), flush=True)  # fmt: skip


def mean(found: dict) -> float:
    """Bits per character of all texts together, or the share of right answers."""
    if "right" in found:
        return sum(found["right"]) / len(found["right"])
    return round(sum(found["bits"]) / sum(found["characters"]), 4)


def read() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


# ---- tables


def change(found: dict, against: dict, draws: int = 2000) -> str:
    """By how much more bits the same texts cost, in percent, with a 95% interval over texts, paired and drawn with replacement."""
    pairs = list(zip(found["bits"], against["bits"], strict=True))
    chance, ratios = random.Random(0), []
    for _ in range(draws):
        drawn = chance.choices(pairs, k=len(pairs))
        ratios.append(sum(a for a, _ in drawn) / sum(b for _, b in drawn) - 1)
    ratios.sort()
    middle = sum(found["bits"]) / sum(against["bits"]) - 1
    return f"{middle:+.1%} ({ratios[int(0.025 * draws)]:+.1%} to {ratios[int(0.975 * draws)]:+.1%})"


def last(line: dict) -> dict:
    return line["at"][max(line["at"], key=lambda at: int(at) if at.isdigit() else -1)]


def averaged(points: list[dict], kind: str) -> dict:
    """The bits of each text, averaged over the ends of several cells."""
    return {"bits": [sum(bits) / len(points) for bits in zip(*(point[kind]["bits"] for point in points), strict=True)]}


def table() -> None:
    """Markdown tables of all cells there are."""
    from kmlite.evaluation.scoring import score

    lines = {line["cell"]: line for line in read()}
    base = lines["base"]["at"]["0"]
    values = ", ".join(f"{kind} {mean(found)}" for kind, found in base.items())
    print(f"The base, bits per character (copying: bits per token): {values}.\n")
    print("Right after extension, against the base (95% interval over texts):\n")
    print("| new tokens | start | fewer tokens: text, exam | Korean | exam questions |\n| --- | --- | --- | --- | --- |")
    for line in lines.values():
        if line["cell"].startswith("start"):
            for name, at in line["at"].items():
                start = line["start"] + ("" if name == "0" else f", {name}")
                saved = ", ".join(f"{line['saved'][kind]:.1%}" for kind in ("korean", "exam"))
                cells = " | ".join(change(at[kind], base[kind]) for kind in ("korean", "exam"))
                print(f"| {line['count']:,} | {start} | {saved} | {cells} |")
    kinds = ("korean", "exam", "english", "copying")
    for size in sorted({line["tokens"] for line in lines.values() if line["cell"].startswith("text")}):
        group = [line for line in lines.values() if line["cell"].startswith("text") and line["tokens"] == size]
        plain = next((line for line in group if line["cell"].startswith("text plain")), None)
        print(f"\nContinued pretraining on text of {size:,} old tokens, against {'plain' if plain else 'the base'}:\n")
        print("| | Korean | exam questions | English | copying |\n| --- | --- | --- | --- | --- |")
        for line in group:
            to, at = (base if plain in (None, line) else last(plain)), last(line)
            name = line["cell"].removeprefix("text ") + (", against the base" if line is plain else "")
            print(f"| {name} | " + " | ".join(f"{mean(at[k])}, {change(at[k], to[k])}" for k in kinds if k in at) + " |")
    print("\nThe same over all seeds, each text's bits averaged, against plain:\n")
    for name in ("1000 best", "replay 20%", "1000 best, 30k"):
        plain = "text plain, 30k" if name.endswith("30k") else "text plain"
        both = [[last(line) for cell, line in lines.items() if cell.partition(", seed")[0] == wanted] for wanted in (f"text {name}", plain)]
        cells = (f"{kind} {change(*(averaged(points, kind) for points in both))}" for kind in kinds)
        print(f"- {name}, {len(both[0])} seeds: " + ", ".join(cells))
    listed = [line for line in lines.values() if line["cell"].startswith("dictionary")]
    if listed:
        print("\nDictionary, bits per character of the answers, 95% interval against one wording:\n")
        print("| asked | before | " + " | ".join(line["cell"].removeprefix("dictionary ") for line in listed) + " |")
        print("| --- | --- | " + " | ".join("---" for _ in listed) + " |")
        for kind, found in listed[0]["at"]["0"].items():
            cells = [f"{mean(last(line)[kind])}" for line in listed]
            cells[1:] = [
                f"{cell}, {change(last(line)[kind], last(listed[0])[kind])}" for cell, line in zip(cells[1:], listed[1:], strict=True)
            ]
            print(f"| {kind} | {mean(found)} | " + " | ".join(cells) + " |")
    for line in lines.values():
        if line["cell"].startswith("exam"):
            for at, point in line["at"].items():
                right, bits, chosen = (point["dev by letter"][key] for key in ("right", "bits", "chosen"))
                low, high = score(sum(right), len(right))["interval"]
                share = f"{sum(right) / len(right):.1%} of {len(right)} ({low:.1f} to {high:.1f})"
                print(f"\n{line['cell']}, {at} tokens: {share}, {sum(bits) / len(bits):.3f} bits of the right letter, {chosen}")
    seconds, tokens = (sum(line[key] for line in lines.values()) for key in ("seconds", "cpu_seconds"))
    print(f"\n{len(lines)} cells, float32, one thread of a shared machine: {seconds:,} s, {tokens:,} of them computing.")


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "study":
        study(*map(Path, sys.argv[2:]))
    elif sys.argv[1:] == ["table"]:
        table()
    else:
        sys.exit(__doc__)

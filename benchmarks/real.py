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
from kmlite.models import vocabulary

RESULTS = Path(__file__).parent / "results" / "real.jsonl"
OUT = paths.ROOT / "model/benchmarks/real"
RANK, SCALE, RATE = 64, 16.0, 2e-5  # stage 0's
CHUNK = 400  # characters of a training text
EXAM_SHARE = 0.5  # of the words that choose merges


def load(base: Path, refined: Path, english: Path) -> SimpleNamespace:
    """The model, its tokenizer, the texts of the study, and the ids whose logits are made."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
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
        listed = [*train, *held, *(prompts.exam_prompt(q) for part in exam.values() for q in part), *paragraphs]
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
        vocabulary.extend_tokenizer(study.base, cache.with_suffix(".partial"), merges)
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


def snippets(study, encode, count: int, budget: int, size: int = 70) -> list[str]:
    """Short texts of train, up to `budget` new-tokenizer tokens, chosen greedily so that rare new tokens stand in them too."""
    pool = [t[i : i + size] for t in study.train[:2500] for i in range(0, min(len(t), 5 * size), size)]
    pool += [asked(q)[:size] for q in study.exam["train"]]
    random.Random(1).shuffle(pool)
    encoded = encode(pool)
    first = len(study.matrix)
    seen: Counter = Counter()
    chosen: dict[int, None] = {}
    spent = 0
    for needed in (1, 2, 4, 8, 16):
        for i, ids in enumerate(encoded):
            if spent >= budget:
                return [pool[j] for j in chosen]
            new = [t for t in ids if t >= first]
            if i not in chosen and sum(seen[t] < needed for t in set(new)) >= (2 if needed > 1 else 1):
                chosen[i] = None
                seen.update(set(new))
                spent += len(ids)
    return [pool[j] for j in chosen]


def taught_rows(study, merges, encode, start, budget: int, deep: bool = True, between=None):
    """Rows that started as `start` and were fitted to what the old pieces do.

    First the head's side alone, which is convex: hidden states of the model over snippets in the OLD tokens are kept, and the rows
    (start, a shared linear map, a shared shift, a difference of each row's own) learn to be predicted there. With `deep` the
    input's side too (Token Distillation, arXiv 2505.20133): states over the snippet in the new tokens are to match those in the old.
    """
    import torch

    texts = snippets(study, encode, len(merges), budget)
    old, new = encoder(study.tokenizer)(texts), encode(texts)
    pieces, size, bos = pieces_of(study, merges), len(study.matrix), study.tokenizer.bos_token_id
    ends = []
    for before, after in zip(old, new, strict=True):
        at, place = [], 0
        for t in after:
            place += len(pieces[t - size]) if t >= size else 1
            at.append(place)
        assert place == len(before)
        ends.append([0, *at])  # of the state behind each new token in the old sequence; 0 is behind <bos>
    teacher, kept_states, totals, targets = [], [], [], []
    with torch.no_grad():
        for start_at in range(0, len(texts), 8):
            part = range(start_at, min(len(texts), start_at + 8))
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

    optimizer = torch.optim.Adam([{"params": [free[0], free[1]], "lr": 3e-4}, {"params": [free[2]], "lr": 1e-3}])
    note = {"snippets": len(texts), "tokens": len(targets), "new_seen": len(set(targets.tolist()) - {-1})}
    chance = torch.Generator().manual_seed(0)
    steps = 240
    for step in range(steps):
        at = torch.randint(len(seen), (512,), generator=chance)
        loss = head_loss(at) + 0.05 * free[2].pow(2).sum(1).mean() + 1e-3 * free[0].pow(2).sum()
        if step in (0, steps - 1):
            note[f"head_loss_{step}"] = round(float(loss), 4)
        optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(optimizer.param_groups, (3e-4, 1e-3), strict=True):
            group["lr"] = rate * (1 - step / steps)
        optimizer.step()
    if between:
        note["between"] = between(rows().detach())
    if not deep:
        return rows().detach(), note
    optimizer = torch.optim.Adam([{"params": [free[0], free[1]], "lr": 1e-4}, {"params": [free[2]], "lr": 5e-4}])
    batches = [list(range(i, min(len(texts), i + 8))) for i in range(0, len(texts), 8)]
    for step, part in enumerate(batches):
        now = rows()
        hidden = states(study, study.model.model, [[bos, *new[i]] for i in part], now)
        mine = [hidden[row, : len(new[i]) + 1] for row, i in enumerate(part)]
        apart = torch.cat([((m - teacher[i]).pow(2).sum(1) / teacher[i].pow(2).sum(1))[1:] for m, i in zip(mine, part, strict=True)]).mean()
        predicted = token_losses(study, torch.cat([m[:-1] for m in mine]), [t for i in part for t in new[i]], now).mean()
        if step in (0, len(batches) // 2, len(batches) - 1):
            note[f"deep_{step}"] = [round(float(apart), 4), round(float(predicted), 4)]
        optimizer.zero_grad()
        (predicted + apart).backward()
        for group, rate in zip(optimizer.param_groups, (1e-4, 5e-4), strict=True):
            group["lr"] = rate * (1 - step / len(batches))
        optimizer.step()
    return rows().detach(), note


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


def train(study, examples: list[tuple[list[int], list[bool]]], *, rate=RATE, rows=None, row_rate=2e-4, batch=2, epochs=1, checks=None):
    """Train a LoRA (and `rows`) on (ids, which of them count) examples, cosine with warm-up; `checks`: {examples seen: measure}.

    Returns {"steps", "tokens", "loss" of the last fifth, "seconds", "checks": {tokens: what measure gave}}.
    """
    import torch

    network, weights = adapted(study)
    body = network.base_model.model.model
    groups = [{"params": weights, "lr": rate, "top": rate, "weight_decay": 0.01}]
    if rows is not None:
        rows.requires_grad_(True)
        groups.append({"params": [rows], "lr": row_rate, "top": row_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    chance, order = random.Random(0), []
    for _ in range(epochs):
        turn = list(range(len(examples)))
        chance.shuffle(turn)
        order += turn
    steps, losses, tokens, found, spent, started = math.ceil(len(order) / batch), [], 0, {}, 0.0, time.time()
    checks = dict(checks or {})
    for step in range(steps):
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
        warm = max(1, round(0.03 * steps))
        for group in optimizer.param_groups:
            share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
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
    """The rows of a start; the taught ones are kept on disk, since several cells begin with them."""
    import torch

    if start != "taught":
        return vocabulary.start_rows(study.matrix, study.tokenizer, merges, start), {}
    kept = OUT / f"taught-{len(merges)}.pt"
    if kept.exists():
        return torch.load(kept), {}
    fitted = vocabulary.start_rows(study.matrix, study.tokenizer, merges, "fitted")
    rows, note = taught_rows(study, merges, encode, fitted, 5000, between=between)
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


def text_cell(study, tokens: int, count: int = 0, start: str = "", rate: float = 1.0, replay: float = 0.0) -> dict:
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
    result = train(study, examples, rate=rate * RATE, rows=rows, checks=checks)
    at = result.pop("checks")
    return {"saved": saved, "note": note, "training": result, "at": at}


CELLS: dict[str, tuple] = {
    "base": (base_cell, {}),
    "start 1000 fitted": (starts, {"count": 1000, "start": "fitted"}),
    "start 1000 taught": (starts, {"count": 1000, "start": "taught"}),
    "start 1000 mean": (starts, {"count": 1000, "start": "mean"}),
    "text plain": (text_cell, {"tokens": 8000}),
    "text 1000 taught": (text_cell, {"tokens": 8000, "count": 1000, "start": "taught"}),
    "text replay 20%": (text_cell, {"tokens": 8000, "replay": 0.2}),
    "text rate 3x": (text_cell, {"tokens": 8000, "rate": 3.0}),
    "start 500 fitted": (starts, {"count": 500, "start": "fitted"}),
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
        line |= {"machine": f"{platform.machine()}, {os.cpu_count()} shared cores, 1 thread", "precision": "float32", "seed": 0}
        line["date"] = time.strftime("%Y-%m-%d")
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(name, line["seconds"], "s", {k: {t: round(sum(v["bits"]) / sum(v["characters"]), 4) for t, v in p.items()}
                                           for k, p in result.get("at", {}).items()}, result.get("note", ""), flush=True)  # fmt: skip


def read() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "study":
        study(*map(Path, sys.argv[2:]))
    else:
        sys.exit(__doc__)

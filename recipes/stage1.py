"""Stage 1: teach the medical dictionary. A LoRA on (term → definition) turns; the loss counts definitions alone.

\b
    make stage1 REFINED=data/02_refined OUT=model
"""

from dataclasses import dataclass
from functools import partial

import click

from kmlite import paths
from kmlite.cli import console, recipe, setting
from kmlite.training.settings import TrainingSettings


@dataclass(frozen=True)
class Settings(TrainingSettings):
    learning_rate: float = setting(2e-5, "as stage 0: the terms are new, the language is not")
    epochs: float = setting(3, "a definition is seen three times")
    log_every: int = setting(50, "steps between lines of the log", decides=False)
    heldout_share: float = setting(0.05, "share of the terms never trained on, chosen by hash")
    recalled: int = setting(200, "seen terms whose definition the model is asked to write, before and after", decides=False)


def main(settings: Settings) -> None:
    from kmlite import records
    from kmlite.evaluation import dictionary

    console.print(f"[bold]stage 1[/]  medical dictionary → {settings.out / paths.STAGES[1].folder}")

    # ---- what there is to learn
    seen, heldout = dictionary.split(records.read_dictionary(settings.refined), settings.heldout_share)
    if not seen:
        raise click.ClickException(f"{settings.refined / paths.DICTIONARY} holds no entry to teach.")

    from kmlite.evaluation import suite
    from kmlite.models import loading
    from kmlite.training import examples, stages

    stage = stages.open_stage(1, settings)
    if not stage:
        return
    measured_on = suite.prepare(settings.refined, texts=settings.heldout, entries=0, questions=settings.questions)
    terms = f"{len(seen):,} terms to teach, {len(heldout):,} held out"
    stage.describe("entries", {"dictionary": terms, "suite": suite.in_words(measured_on)})
    how = {"entries": settings.entries, "recalled": settings.recalled, "length": settings.length}
    definitions = partial(dictionary.measure, seen=seen, heldout=heldout, **how)

    # ---- measure, train
    model, tokenizer = stage.load(stage.base, train=True)
    stage.measure("before", (model, tokenizer), measured_on, definitions)
    rows, left_out = examples.conversation_rows(tokenizer, dictionary.pairs(seen), settings.length)
    if left_out:
        console.print(f"  {left_out:,} entries are longer than {settings.length} tokens and are left out")
    stage.facts["left_out"] = left_out
    watched, _ = examples.conversation_rows(tokenizer, dictionary.pairs(suite.sample_entries(heldout, settings.entries)), settings.length)
    adapted = stage.adapt(model)
    stage.train(adapted, tokenizer, rows, eval_rows=watched, order="group_by_length")
    del model, adapted
    loading.free()

    # ---- merge, measure what is handed over
    final = stage.merge(stage.base, stage.adapter(), [definition for _, definition in dictionary.pairs(seen[:3])])
    stage.measure("after", final, measured_on, definitions)
    stage.finish(trained_on={("bits_per_character", "seen definitions")})


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()

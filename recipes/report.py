"""Write OUT/report.html: one page that shows what every step of a folder of models did. Opens from disk, needs no network.

\b
    make report REFINED=data/02_refined OUT=model
    make report OUT=model ARGS="--language ko"
"""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting


@dataclass(frozen=True)
class Settings:
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models; the page is written into it")
    language: str = setting("en", "of the page when it opens; it holds both and switches", ("en", "ko"))


def main(settings: Settings) -> None:
    from kmlite import files
    from kmlite.sharing.report import page

    started = time.time()
    console.print(f"[bold]report[/]  {settings.refined}, {settings.out} → {settings.out / paths.REPORT}")
    begun = [settings.out / stage.folder for stage in paths.STAGES] + [settings.out / "eval", settings.refined / paths.REFINE_RECORD]
    if not any(path.exists() for path in begun):
        raise click.ClickException(
            f"neither {settings.refined} nor {settings.out} holds anything to report on.\n"
            f"  Name the folders: make report REFINED=… OUT=…   or make some: make demo"
        )
    check_writable(settings.out)
    html = page.build(settings.refined, settings.out, settings.language, defaults())
    files.write_text(settings.out / paths.REPORT, html)
    size = (settings.out / paths.REPORT).stat().st_size
    console.print(f"  {size / 1e6:.1f} MB, {time.time() - started:.1f} s. Open it in a browser: {settings.out / paths.REPORT}")


def defaults() -> dict[str, dict]:
    """The default of each setting of the stages, as a record would hold it."""
    from kmlite.runs import as_stored
    from recipes import of_stages

    return {name: as_stored({field.name: field.default for field in fields(step.Settings)}) for name, step in of_stages().items()}


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()

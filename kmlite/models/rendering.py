"""Render a chat template in a process of its own, under a limit of time and memory: it comes out of a stranger's folder.

python -P kmlite/models/rendering.py < {"template", "conversations", "names"} → {"texts"} or {"error"}
"""

import json
import resource
import subprocess
import sys
from datetime import datetime

import click

SECONDS = 3  # of computing; a real template takes a hundredth
MEMORY = 1 << 30  # bytes of address space; Python and jinja2 take a tenth
LENGTH = 100_000  # characters of a rendering of two words


def render(template: str, conversations: list[list[dict]], names: dict[str, str]) -> list[str]:
    """Each conversation in the template, with the generation prompt behind it where the user spoke last, as transformers renders it;
    a click error says that it fails, loops or takes too much memory, and no more. `names`: bos_token and the like."""
    request = json.dumps({"template": template, "conversations": conversations, "names": names})
    why = f"does not end: it was stopped after {SECONDS} s of computing"
    try:
        command = [sys.executable, "-P", __file__]
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=20 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise click.ClickException(why) from None
    if not done.returncode:
        answer = json.loads(done.stdout)
        if "texts" in answer:
            return answer["texts"]
        why = answer["error"]
    elif "MemoryError" in done.stderr:
        why = f"asks for over {MEMORY / 2**30:.0f} GiB of memory"
    elif done.returncode > 0:
        why = f"can't be rendered: {done.stderr[-300:]}"
    raise click.ClickException(why)


def environment():
    """jinja2's sandbox with what transformers adds to it (5.17, utils/chat_template_utils.py)."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, **options):
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the assistant wrote; here it only stands for what is inside."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    sandbox.filters["tojson"] = tojson
    sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return sandbox


def main() -> None:
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        template = environment().from_string(request["template"])
        answer: dict = {"texts": [rendered(template, messages, request["names"]) for messages in request["conversations"]]}
    except MemoryError:
        raise
    except Exception as error:  # whatever a stranger's template raises is told, not shown
        answer = {"error": f"fails on a plain conversation: {error}"[:300]}
    print(json.dumps(answer))


def rendered(template, messages: list[dict], names: dict[str, str]) -> str:
    text, asks = "", messages[-1]["role"] == "user"
    for part in template.generate(messages=messages, add_generation_prompt=asks, tools=None, documents=None, **names):
        text += part[: LENGTH + 1]
        if len(text) > LENGTH:
            raise ValueError(f"writes over {LENGTH:,} characters for a conversation of two words")
    return text


if __name__ == "__main__":
    main()

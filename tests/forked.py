"""Processes that are there at once: one that has imported what takes ten seconds, and forks a child for each piece of code.

`python tests/forked.py unsloth` has the stack as a recipe has it, `python tests/forked.py plain` the same libraries without Unsloth.
It reads one JSON request a line, {"code", "arguments", "environment", "output", "terminal"}, and answers with {"pid"} and, when the
child has ended, {"status": its exit status, negative for a signal}. Each child is a process group of its own; one with an
environment of its own imports kmlite and the recipes anew, so that they see it, and its terminal, from the start.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path

# what a stage, or an export and lm-eval, would import on the way
GEMMA = ("transformers.models.gemma3.modeling_gemma3", "transformers.models.gemma.tokenization_gemma", "peft.tuners.lora.bnb")
GEMMA += ("transformers.models.siglip.modeling_siglip", "transformers.models.auto.modeling_auto", "transformers.generation.utils")
STACK = ("recipes.stage0", "recipes.stage1", "recipes.stage2", "kmlite.training.trainer", "kmlite.training.self_training")
STACK += ("kmlite.models.merging", "kmlite.models.vocabulary", "kmlite.evaluation.dictionary")
STACK += ("bitsandbytes", "trl.trainer.sft_trainer", "sacrebleu", "datasets.io.generator")
LM_EVAL = ("lm_eval.models.huggingface", "lm_eval.tasks")
OURS = ("kmlite", "recipes")


class Forked:
    """The test's end of such a process. `home` is its children's HF_HOME: it is read by an import, so it is the same for all."""

    def __init__(self, kind: str, folder: Path):
        self.folder, self.home = folder, folder / "hf"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HF_HOME": str(self.home)}
        environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, kind]
        with open(folder / "stderr", "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment)
        self.ready = self.running = False

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        assert line, (self.folder / "stderr").read_text()
        return json.loads(line)

    def start(self, code: str, *arguments: str, output: Path | str = "", terminal: str = "", **environment: str) -> None:
        """Fork a child that runs `code` as `python -c` does. What it says goes to the file `output`, or it talks to a terminal."""
        if not self.ready:
            assert self.answer() == {"ready": True}
            self.ready = True
        request = {"code": code, "arguments": arguments, "environment": environment, "output": str(output), "terminal": terminal}
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()
        self.pid = self.answer()["pid"]
        self.running = True

    def ended(self, seconds: float) -> bool:
        """Whether the child has ended within this time."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def status(self, seconds: float = 300) -> int:
        """The child's exit status; it is killed if it takes longer."""
        if not self.ended(seconds):
            self.kill()
        self.running = False
        return self.answer()["status"]

    def drop(self) -> None:
        """End the child, if it is still there."""
        if self.running:
            self.kill()
            self.status()

    def run(self, code: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """(exit status, all that was printed) of a child."""
        output = self.folder / "output"
        output.unlink(missing_ok=True)
        self.start(code, *arguments, output=output, **environment)
        return self.status(), output.read_text(encoding="utf-8")

    def close(self) -> None:
        self.drop()
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def watch_saving(events: str, at: str, after: bool) -> None:
    """Note in the file `events` every write that a run makes (`what path`, a line each); at the line `at` end this process by SIGKILL.

    It dies when half of a file is written, or half of a folder is removed, and before a rename; with `after` behind the call.
    """
    import safetensors.torch
    import torch

    log = open(events, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def wrapped(name, whole, half, target):
        def call(*given, **named):
            line = f"{name} {given[target]}"
            log.write(line + "\n")
            if line == at and not after:
                half(whole, given, named)
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*given, **named)
            if line == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def half_of_file(whole, given, named):
        whole(*given, **named)
        os.truncate(given[1], Path(given[1]).stat().st_size // 2)

    def half_of_folder(_, given, named):
        files = sorted(path for path in Path(given[0]).rglob("*") if path.is_file())
        for path in files[: (len(files) + 1) // 2]:
            path.unlink()

    def nothing(*_):
        pass

    torch.save = wrapped("save", torch.save, half_of_file, 1)
    safetensors.torch.serialize_file = wrapped("serialize", safetensors.torch.serialize_file, half_of_file, 1)
    shutil.rmtree = wrapped("rmtree", shutil.rmtree, half_of_folder, 0)
    os.replace, os.rename = (wrapped(name, getattr(os, name), nothing, 1) for name in ("replace", "rename"))


def child(request: dict) -> int:
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # TMPDIR may be another now
    if request["terminal"]:
        os.setsid()
        ends = [os.open(request["terminal"], os.O_RDWR)] * 3  # the first terminal that a session opens is the one it is controlled by
    else:
        os.setpgid(0, 0)
        log = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        ends = [os.open(os.devnull, os.O_RDONLY), log, log]
    for number, end in enumerate(ends):
        os.dup2(end, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # the old one may hold requests that it has read ahead
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1 if request["terminal"] else -1)  # noqa: SIM115
    if request["environment"]:
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
    sys.argv = ["-c", *request["arguments"]]
    try:
        exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__", "watch_saving": watch_saving})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return int(bool(end.code)) if not isinstance(end.code, int) else end.code
    return 0


def main(kind: str) -> None:
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers' loading threads now and then meet a thread pool that a fork broke
    import torch

    torch.set_num_threads(1)  # before any parallel region: a forked child has no other threads
    if kind == "unsloth":
        from kmlite.models import loading

        loading.fast_model()
    for name in [*STACK, *GEMMA] if kind == "unsloth" else [*GEMMA, *(LM_EVAL if find_spec("lm_eval") else ())]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child then collects its own garbage alone
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            status = 70
            try:
                status = child(request)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

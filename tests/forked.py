"""One process that imports everything once and forks a child for each run of a recipe: so that killing thirty runs takes seconds.

It reads one JSON request a line, {"recipe", "arguments", "log", "events", "at", "after"}, and answers with {"pid"} and, when
the child has ended, {"status": its exit status, negative for a signal}. Each child is a process group of its own.
"""

import gc
import importlib
import io
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

# what a stage would import on the way
IMPORTED = ("recipes.stage0", "recipes.stage1", "recipes.stage2", "kmlite.training", "kmlite.merging", "kmlite.gauge", "kmlite.exam")
IMPORTED += ("kmlite.reasoning", "kmlite.definitions", "kmlite.vocabulary", "bitsandbytes", "trl.trainer.sft_trainer", "sacrebleu")
IMPORTED += ("transformers.models.gemma3.modeling_gemma3", "transformers.models.gemma.tokenization_gemma", "peft.tuners.lora.bnb")
IMPORTED += ("datasets.io.generator", "datasets.packaged_modules.generator.generator", "transformers.models.siglip.modeling_siglip")


def watch_saving(events: Path, at: str, after: bool) -> None:
    """Note in the file `events` every write that a run makes (`what path`, a line each); at the line `at` end this process by SIGKILL.

    It dies when half of a file is written, or half of a folder is removed, and before a rename; with `after` behind the call.
    """
    import safetensors.torch
    import torch

    log = open(events, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def wrapped(name, whole, half, target):
        def call(*given, **named):
            line = f"{name} {target(given)}"
            log.write(line + "\n")
            if line == at and not after:
                half(given, named)
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*given, **named)
            if line == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    save, serialize, rmtree = torch.save, safetensors.torch.serialize_file, shutil.rmtree

    def half_of_save(given, named):
        whole = io.BytesIO()
        save(given[0], whole)
        Path(given[1]).write_bytes(whole.getvalue()[: whole.tell() // 2])

    def half_of_serialize(given, named):
        serialize(*given, **named)
        os.truncate(given[1], Path(given[1]).stat().st_size // 2)

    def half_of_rmtree(given, named):
        files = sorted(path for path in Path(given[0]).rglob("*") if path.is_file())
        for path in files[: (len(files) + 1) // 2]:
            path.unlink()

    def nothing(given, named):
        pass

    torch.save = wrapped("save", save, half_of_save, lambda given: given[1])
    safetensors.torch.serialize_file = wrapped("serialize", serialize, half_of_serialize, lambda given: given[1])
    shutil.rmtree = wrapped("rmtree", rmtree, half_of_rmtree, lambda given: given[0])
    os.replace = wrapped("replace", os.replace, nothing, lambda given: given[1])
    os.rename = wrapped("rename", os.rename, nothing, lambda given: given[1])


def child(request: dict) -> int:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    watch_saving(Path(request["events"]), request["at"], request["after"])
    command = importlib.import_module(f"recipes.{request['recipe']}").command
    try:
        command.main(request["arguments"], prog_name=request["recipe"])
    except SystemExit as end:
        return end.code or 0
    return 0


def main() -> None:
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers' loading threads now and then meet a thread pool that a fork broke
    import torch

    torch.set_num_threads(1)  # before any parallel region: a forked child has no other threads
    from kmlite import model

    model.fast_model()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child then collects its own garbage alone
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
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
    main()

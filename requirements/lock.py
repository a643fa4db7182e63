"""Write requirements/*.txt: every package with its version and the hashes of its files, for Python 3.11 and newer on any system.

    make lock

uv resolves (pip has no universal resolution), and keeps the versions that stand in the locks where they still fit; `make lock
ARGS=--upgrade` takes the newest. Unsloth's metadata asks for packages that only a GPU needs, so it is locked without its dependencies:
what it needs stands in cpu.in and gpu.in. torch itself (torch.in) is not in the locks, because it comes as a CPU or a CUDA build with
hashes of its own: `make setup` installs it first, without dependencies, which are locked here; those of its CUDA build in gpu.txt alone.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CUDA = re.compile(r"triton|nvidia-|cuda-")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def resolved(inputs: str, target: Path, *options: str) -> dict[str, str]:
    """name → its lines (version, marker, hashes) in the resolution of requirement lines; `target` is the lock whose versions are kept.

    A package that has different versions for different Pythons has the lines of all of them.
    """
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-annotate", "--no-header"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", *options, *sys.argv[1:]]
    kept = [line for line in target.read_text().splitlines() if "==" in line and not line.startswith("#")] if target.exists() else []
    wanted = [] if "--upgrade" in sys.argv else ["--constraints", "-"]
    source = HERE / ".resolving.in"
    source.write_text(inputs)
    try:
        held = "\n".join(line.partition(" \\")[0] for line in kept)
        found = subprocess.run([*command, *wanted, source], input=held, text=True, check=True, stdout=subprocess.PIPE, cwd=HERE).stdout
    finally:
        source.unlink()
    blocks: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", found.strip()):
        name = NAME.match(block)[0]  # type: ignore[index]
        blocks[name] = blocks.get(name, "") + block + "\n"
    return blocks


def asked(name: str) -> str:
    return (HERE / f"{name}.in").read_text()


def write(name: str, blocks: dict[str, str], note: str) -> None:
    head = f"# Written by `make lock` from {name}.in{note}.\n"
    (HERE / f"{name}.txt").write_text(head + "".join(blocks[key] for key in sorted(blocks)))
    print(f"requirements/{name}.txt: {len(blocks)} packages")


def main() -> None:
    unsloth = resolved(asked("unsloth"), HERE / "none", "--no-deps")
    whole: dict[str, dict[str, str]] = {}
    for name in ("cpu", "gpu"):
        found = resolved(asked(name) + asked("torch"), HERE / f"{name}.txt")
        whole[name] = {k: v for k, v in found.items() if k != "torch" and (name == "gpu" or not CUDA.match(k))}
        write(name, {**whole[name], **unsloth}, " and unsloth.in; install with --no-deps --require-hashes after torch.in")
    for name in ("eval", "web", "docs"):  # an extra never changes what stands in the locks, whatever its metadata asks for
        found = resolved(asked(name) + asked("torch"), HERE / f"{name}.txt", "--overrides", "cpu.txt")
        extra = {k: v for k, v in found.items() if k not in whole["cpu"] and k != "torch" and not CUDA.match(k)}
        write(name, extra, "; install with --no-deps --require-hashes beside cpu.txt or gpu.txt")


if __name__ == "__main__":
    main()

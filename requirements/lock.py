"""Write requirements/*.txt: every package with its version, as pip resolves the .in files today. cpu.txt and gpu.txt are whole;
eval.txt and web.txt hold what these extras add to them.

    make lock

pip alone resolves here: it has no way to override one dependency, so unsloth (whose metadata asks for GPU-only packages)
is appended as it stands in unsloth.in. torch and what its CUDA build brings are left out: `make setup` installs them
first, in the build that the package index gives for the machine.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FROM_TORCH = re.compile(r"torch|triton|nvidia-|cuda-")


def pins(name: str) -> list[str]:
    """`NAME==VERSION` lines for requirements/NAME.in with all its dependencies, sorted by name."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*command, "-r", HERE / f"{name}.in"], check=True, stdout=subprocess.PIPE).stdout
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(report)["install"]}
    return sorted(
        (f"{package}=={version}" for package, version in found.items() if not FROM_TORCH.match(package) or package == "torchvision"),
        key=str.lower,
    )


def main() -> None:
    unsloth = [line for line in (HERE / "unsloth.in").read_text().splitlines() if line and not line.startswith("#")]
    for name in ("cpu", "gpu"):
        lines = pins(name) + unsloth
        head = f"# Written by `make lock` from {name}.in and unsloth.in; install with --no-deps after torch==2.13.0.\n"
        (HERE / f"{name}.txt").write_text(head + "\n".join(lines) + "\n")
        print(f"requirements/{name}.txt: {len(lines)} packages")
    have = {line.split("==")[0] for line in pins("cpu")}  # an extra never changes what stands in the locks
    for name in ("eval", "web"):
        lines = [line for line in pins(name) if line.split("==")[0] not in have]
        head = f"# Written by `make lock` from {name}.in; install with --no-deps beside cpu.txt or gpu.txt.\n"
        (HERE / f"{name}.txt").write_text(head + "\n".join(lines) + "\n")
        print(f"requirements/{name}.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()

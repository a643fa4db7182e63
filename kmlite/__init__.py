"""kmlite: teach MedGemma Korean medicine on one graphics card."""

__version__ = "0.1.0"

import os

# torchrun distinguishes its processes by these. Left over from a cluster's job script they would silence a run, or make it wait for others.
if "TORCHELASTIC_RUN_ID" not in os.environ:
    for _name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE"):
        os.environ.pop(_name, None)

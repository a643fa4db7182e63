"""A pytest plugin: Unsloth's GPU code in the place of its CPU backend, computed on a CPU without compiling.

Its loader, its adapters with what they freeze, the forwards that it writes anew (attention, norms, LoRA, the fused loss) and its
trainer are Python, and run anywhere once the checks that ask for a card are answered. Not shown by that: Triton kernels,
torch.compile, flex attention (attention is eager here), bfloat16, speed and memory. 4-bit and 8-bit are bitsandbytes' own for a CPU.

    make rehearse-gpu

Needs triton, which Unsloth imports and no CPU build of torch brings; the target puts it into a folder of its own.
"""

import os
import sys
import tempfile

from kmlite import paths
from kmlite.models import loading

sys.path.append(str(paths.ROOT / ".venv/triton"))
os.environ |= {"UNSLOTH_FORCE_CPU": "1", "UNSLOTH_COMPILE_DISABLE": "1", "UNSLOTH_COMPILE_LOCATION": tempfile.mkdtemp()}
loading.fast_model()  # the CPU backend, as everywhere; what it replaced in trl goes back

import torch
import trl
import trl.trainer.sft_config
import trl.trainer.sft_trainer

for name in ("SFTTrainer", "SFTConfig"):
    own = next(c for c in getattr(trl, name).__mro__ if c.__module__.startswith("trl.") and "<locals>" not in c.__qualname__)
    for module in (trl, trl.trainer, trl.trainer.sft_trainer, trl.trainer.sft_config):
        if hasattr(module, name):
            setattr(module, name, own)

from unsloth.models import _utils, loader, rl, vision
from unsloth_zoo import compiler

torch.cpu.empty_cache = lambda: None
compiler.OLD_TRITON_VERSION = False  # decided when triton was not to be had yet
_utils._flex_attention_gpu_is_supported = lambda: False  # its backward pass needs a card; older cards take eager too
loader.ALLOW_BITSANDBYTES = True  # its 4-bit runs on a CPU too
vision.get_device_stats = lambda *_: ("a CPU in the place of a card", "", 0.0)
loader.is_bfloat16_supported = vision.is_bfloat16_supported = lambda *_: True  # else Gemma is loaded in float16
rl._patch_trl_rl_trainers("sft_trainer")
assert trl.SFTTrainer.__name__ == "UnslothSFTTrainer"
loading.fast_model = lambda: loader.FastModel


load = loading.load


def load_and_look(*args, **kwargs):
    loaded, tokenizer = load(*args, **kwargs)
    assert loading.rewritten(loaded), "Unsloth's rewritten class was not used"
    return loaded, tokenizer


loading.load = load_and_look

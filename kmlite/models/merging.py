"""Merge an adapter into a 16-bit folder with plain transformers and peft, and check what was written."""

import gc
import json
import os
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import click

from kmlite.files import put_in_place, write_json
from kmlite.models.folders import copy_side_files
from kmlite.runs import end_with_parent

# Two ways to the same logits differ by bfloat16's rounding, and the more so the more layers there are: 0.01 to 0.02 of the logits' spread
# on the embedded base, 0.048 on MedGemma's 34 layers with random weights (CPU, 2026-11). A folder whose configuration is wrong is off
# by its own size. That the weights are the right ones is checked apart, row by row.
ROUNDING = 0.2
ROWS = 16  # of each merged matrix that are computed once more


def merge(base: Path, adapter: Path, final: Path, texts: list[str]) -> float:
    """`merge_here`; beside a GPU in a process of its own, where Unsloth has not patched the classes that run on the CPU."""
    from kmlite.models.loading import on_gpu, quiet

    if not on_gpu():
        with quiet():
            return merge_here(base, adapter, final, texts)
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        try:
            return pool.submit(merge_without_card, base, adapter, final, texts).result()
        except BrokenProcessPool as error:
            raise click.ClickException(
                "merging was killed, most often for want of main memory.\n  make doctor shows what it needs; then run the same command."
            ) from error


def merge_without_card(*given) -> float:
    from kmlite.models.loading import quiet

    # before torch and transformers are imported
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with quiet():
        return merge_here(*given)


def merge_here(base: Path, adapter: Path, final: Path, texts: list[str]) -> float:
    """Write `base` with `adapter` merged in as a full 16-bit folder that plain transformers loads.

    The base's 16-bit weights are used, also where training saw them in 4-bit: outputs move a little, so what is evaluated
    is this folder. Weights without LoRA (the vision tower) keep their bytes. Needs the 16-bit model's size in memory and a third.

    Returns the root mean square difference, on `texts`, between the logits of the written folder and those of base and adapter side by
    side, as a share of the logits' spread. A click error where a row of the written weights is not what base and adapter come to, or
    the difference is over ROUNDING and over a quarter of what the adapter changes: then nothing was put in place.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    adapted = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    expected = logits_of(adapted, base, texts)
    with adapted.disable_adapter():
        effect = spread_of(logits_of(adapted, base, texts) - expected, expected)
    rows = expected_rows(adapted)
    merged = adapted.merge_and_unload()
    # files first: save_pretrained then writes its config over the base's
    copy_side_files(base, partial)
    merged.save_pretrained(partial)
    restore_generation_config(base, partial)
    del model, adapted, merged
    gc.collect()
    written = AutoModelForCausalLM.from_pretrained(partial, dtype=torch.bfloat16, local_files_only=True)
    found = logits_of(written, partial, texts)
    assert written.get_input_embeddings().weight.data_ptr() == written.get_output_embeddings().weight.data_ptr(), "the tie is lost"
    weights = dict(written.named_parameters(remove_duplicate=False))  # the head as well as the embedding
    wrong = [name for name, (at, values, slack) in rows.items() if not ((weights[name][at].float() - values).abs() <= slack).all()]
    del written, weights
    difference = spread_of(found - expected, expected)
    if wrong or not difference <= max(ROUNDING, effect / 4):
        told = f"{len(wrong)} of {len(rows)} matrices are not what base and adapter come to, {wrong[0]} among them; " if wrong else ""
        raise click.ClickException(
            f"the merged model does not do what the adapter does: {told}their logits differ by {difference:.3f} standard deviations "
            f"(up to {ROUNDING} is rounding; the adapter changes them by {effect:.3f}).\n"
            f"  Nothing was put in place; the adapter is in {adapter}. Please report this with your versions."
        )
    put_in_place(partial, final)
    return difference


def expected_rows(adapted) -> dict:
    """Some rows of every weight that the adapter changes, as base and adapter come to: computed from the matrices, not by peft's merge.

    {name of the weight in the plain model: (ids of the rows, float32 values [rows, columns], by how much bfloat16 may be off [the same]:
    half a unit in the last place of the change, and of the sum)}.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    chosen = torch.Generator().manual_seed(0)
    rows = {}

    def note(name: str, at, old, change) -> None:
        rows[name] = at, old + change, 2**-8 * (old.abs() + 2 * change.abs())

    with torch.no_grad():
        for name, module in adapted.get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                weight, (key,) = module.get_base_layer().weight, module.active_adapters
                at = torch.randint(len(weight), (ROWS,), generator=chosen)
                change = module.lora_B[key].weight[at].float() @ module.lora_A[key].weight.float()
                note(f"{name}.weight", at, weight[at].float(), module.scaling[key] * change)
            elif isinstance(module, TrainableTokensLayer) and module.tied_adapter is None:
                (ids,), (trained,) = module.token_indices.values(), module.trainable_tokens_delta.values()
                at = torch.randint(ids[0], (ROWS,), generator=chosen)  # new rows stand behind those of the base
                values = torch.cat([module.get_base_layer().weight[at].float(), trained.float()])
                note(f"{name.removesuffix('.token_adapter')}.weight", torch.cat([at, torch.tensor(ids)]), values, torch.zeros(()))
            elif hasattr(module, "modules_to_save"):
                (saved,) = module.modules_to_save.values()
                at = torch.randint(len(saved.weight), (ROWS,), generator=chosen)
                note(f"{name}.weight", at, saved.weight[at].float(), torch.zeros(()))
    return rows


def spread_of(difference, logits) -> float:
    """Root mean square of a difference as a share of the logits' standard deviation."""
    return float(difference.pow(2).mean().sqrt() / logits.std())


def logits_of(model, folder: Path, texts: list[str]):
    """Logits of all positions of a few texts (64 tokens each at the most), float32 [tokens, rows]."""
    import torch

    from kmlite.models.loading import load_tokenizer

    tokenizer = load_tokenizer(folder)
    model.eval()
    with torch.no_grad():
        rows = (torch.tensor([tokenizer(text)["input_ids"][:64]]) for text in texts)
        return torch.cat([model(input_ids=ids, use_cache=False).logits[0].float() for ids in rows])


def restore_generation_config(source: Path, target: Path) -> None:
    """The source's generation settings with each end-of-sequence id once: loading and saving lengthen that list."""
    path = source / "generation_config.json"
    if not path.exists():
        (target / "generation_config.json").unlink(missing_ok=True)
        return
    config = json.loads(path.read_text())
    if isinstance(config.get("eos_token_id"), list):
        config["eos_token_id"] = list(dict.fromkeys(config["eos_token_id"]))
    write_json(target / "generation_config.json", config)


def publish_names(folder: Path) -> None:
    """Give a vision tower's weights the names of the published Gemma 3 files.

    transformers 5 keeps the names that it loaded, but writes a tower of its own making one level higher; it reads both, vLLM and
    llama.cpp only the published ones. Only the files' headers are written anew: the weights keep their bytes.
    """

    def published(names: dict) -> dict:
        return {re.sub(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)", r"\1vision_model.", name): at for name, at in names.items()}

    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            if published(header) == header:
                continue
            head = json.dumps(published(header)).encode()
            head += b" " * (-len(head) % 8)
            with path.with_suffix(".renamed").open("wb") as renamed:
                renamed.write(len(head).to_bytes(8, "little") + head)
                shutil.copyfileobj(file, renamed, 1 << 24)
        path.with_suffix(".renamed").replace(path)
    for path in folder.glob("*.safetensors.index.json"):
        index = json.loads(path.read_text())
        write_json(path, {**index, "weight_map": published(index["weight_map"])})

"""A LoRA merged into its base: refused where it is not what the adapter does, and the same bytes in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file, save_file

from kmlite import files, paths
from kmlite.models import loading, merging


def test_a_wrong_merge_is_refused(base, tmp_path, monkeypatch):
    network, _ = loading.load(base, "16bit", 64)
    adapted = loading.add_lora(network, r=4, alpha=8, dropout=0, seed=0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    loading.save_adapter(adapted, tmp_path / "adapter")
    texts = ["환자의 혈압이 높다"]
    assert merging.merge(base, tmp_path / "adapter", tmp_path / "right", texts) < merging.ROUNDING
    from peft import LoraModel
    from peft.tuners.lora.layer import Linear

    with monkeypatch.context() as patch:
        patch.setattr(LoraModel, "merge_and_unload", lambda self: self.unload())  # forgets the adapter
        with pytest.raises(Exception, match="14 of 14 matrices are not what base and adapter come to"):
            merging.merge(base, tmp_path / "adapter", tmp_path / "wrong", texts)
    delta = Linear.get_delta_weight
    with monkeypatch.context() as patch:  # one matrix a twentieth off: less than the logits would show
        patch.setattr(Linear, "get_delta_weight", lambda self, key: delta(self, key) * (1.05 if self.in_features == 4 * 64 else 1))
        with pytest.raises(Exception, match=r"2 of 14 matrices are not what base and adapter come to, .*down_proj"):
            merging.merge(base, tmp_path / "adapter", tmp_path / "wrong", texts)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    loading.save_adapter(adapted, tmp_path / "still")
    restore = merging.restore_generation_config

    def squash(source, target):
        restore(source, target)
        config = files.read_json(target / "config.json")
        config["text_config"]["rms_norm_eps"] = 10.0
        files.write_json(target / "config.json", config)

    with monkeypatch.context() as patch:  # right weights, and a configuration that makes something else of them
        patch.setattr(merging, "restore_generation_config", squash)
        with pytest.raises(Exception, match=r"does not do what the adapter does: their logits differ by"):
            merging.merge(base, tmp_path / "still", tmp_path / "wrong", texts)
    assert not (tmp_path / "wrong").exists()


def test_merging_in_a_process_of_its_own_writes_the_same_bytes(base, tmp_path, monkeypatch):
    """What happens beside a GPU, where Unsloth has patched the classes in the training process."""
    network, _ = loading.load(base, "16bit", 64)
    loading.save_adapter(loading.add_lora(network, r=4, alpha=8, dropout=0, seed=0), tmp_path / "adapter")
    here = merging.merge(base, tmp_path / "adapter", tmp_path / "here", ["환자의 혈압이 높다"])
    monkeypatch.setattr(loading, "on_gpu", lambda: True)
    with ThreadPoolExecutor() as pool:  # two processes that start at once
        one = pool.submit(merging.merge, base, tmp_path / "adapter", tmp_path / "there", ["환자의 혈압이 높다"])
        other = pool.submit(merging.merge, base, tmp_path / "nowhere", tmp_path / "never", ["가"])
    there = one.result()
    assert there == pytest.approx(here, abs=1e-3)
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == (tmp_path / "there" / "model.safetensors").read_bytes()
    with pytest.raises(Exception, match="nowhere"):
        other.result()


MERGING = """
import os, sys, time
from kmlite.models import loading, merging

def merge_here(*given):
    print(os.getpid(), flush=True)
    time.sleep(300)

merging.merge_without_card, loading.on_gpu = merge_here, lambda: True
if __name__ == "__main__":
    merging.merge(*sys.argv)
"""


def test_the_process_that_merges_ends_with_the_stage(tmp_path):
    """Whoever kills the stage alone leaves no second model in the memory."""
    (tmp_path / "stage.py").write_text(MERGING)
    command = [sys.executable, tmp_path / "stage.py", "1", "2", "3"]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(paths.ROOT)}, text=True)
    assert stage.stdout
    merging_process = int(stage.stdout.readline())
    stage.kill()
    try:
        stage.communicate(timeout=60)  # to the end of what both write to
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(merging_process, signal.SIGKILL)


def test_a_tower_without_its_published_names_gets_them_and_keeps_its_bytes(tmp_path):
    import torch

    weights = {"vision_tower.encoder.a": torch.ones(3), "language_model.model.b": torch.zeros(2, 5, dtype=torch.bfloat16)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    files.write_json(index, {"metadata": {}, "weight_map": dict.fromkeys(weights, "model.safetensors")})
    for _ in range(2):  # named once, it stays
        merging.publish_names(tmp_path)
        found = load_file(tmp_path / "model.safetensors")
        named = sorted(files.read_json(index)["weight_map"])
        assert sorted(found) == named == ["language_model.model.b", "vision_tower.vision_model.encoder.a"]
        assert found["vision_tower.vision_model.encoder.a"].equal(torch.ones(3))

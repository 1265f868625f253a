"""Loading checkpoints: what is found, what is refused and why, and that weights are held once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from onegen_integrations import CheckpointError, ConfigError, MemoryPassages, OneGen, OneGenConfig, Passage
from onegen_integrations.config import CONFIG_FILE, PRESETS
from onegen_integrations.identity import identity_of


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def test_what_is_saved_loads_as_the_same_model(tiny_folder: Path, tmp_path: Path) -> None:
    model = OneGen.from_pretrained(tiny_folder)
    model.save_pretrained(tmp_path / "copy")
    copy = OneGen.from_pretrained(tmp_path / "copy")
    assert copy is not model
    assert copy.config == model.config
    assert copy.fingerprint == model.fingerprint
    np.testing.assert_array_equal(copy.embed_queries(["Who?"]), model.embed_queries(["Who?"]))


def test_the_same_checkpoint_with_the_same_settings_is_loaded_once(tiny_folder: Path) -> None:
    model = OneGen.from_pretrained(tiny_folder)
    assert OneGen.from_pretrained(str(tiny_folder)) is model
    assert OneGen.from_pretrained(tiny_folder, device="cpu", dtype=torch.float32) is model
    assert OneGen.from_pretrained(tiny_folder, dtype=torch.bfloat16) is not model


def test_a_checkpoint_that_has_been_trained_further_is_loaded_anew(folder: Path) -> None:
    before = OneGen.from_pretrained(folder)
    torch.manual_seed(1)
    trained = LlamaForCausalLM(before.model.config)
    trained.save_pretrained(folder)
    after = OneGen.from_pretrained(folder)
    assert after.fingerprint != before.fingerprint
    assert torch.equal(after.model.lm_head.weight, trained.lm_head.weight)


def test_an_identity_tells_files_and_adapters_apart(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    plain, adapted = identity_of(folder), identity_of(folder, adapter=tmp_path / "adapter")
    assert identity_of(copied) == plain != adapted
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 2}')
    assert identity_of(folder, adapter=tmp_path / "adapter") != adapted
    assert identity_of("some/hub-id") == "some/hub-id"
    assert identity_of("no hub id at all?") == "no hub id at all?"


def test_embedding_and_generating_use_the_same_parameters(tiny_folder: Path) -> None:
    model = OneGen.from_pretrained(tiny_folder)
    before = {name: weight.data_ptr() for name, weight in model.model.named_parameters()}
    source = MemoryPassages(OneGen.from_pretrained(tiny_folder))
    source.add([Passage("a", "Tolmar is a city.")])
    model.generate("Which city?", passages=source, retrieval="always", max_new_tokens=4)
    assert {name: weight.data_ptr() for name, weight in model.model.named_parameters()} == before


@pytest.mark.slow
def test_one_process_that_embeds_and_generates_holds_one_set_of_weights(tmp_path: Path, tiny_folder: Path) -> None:
    """Resident memory with one OneGen for both jobs, against the same weights loaded twice."""
    tokenizer = OneGen.from_pretrained(tiny_folder).tokenizer
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=1024, num_hidden_layers=6, num_attention_heads=8)
    OneGen(LlamaForCausalLM(config), tokenizer, OneGenConfig.preset("mini")).save_pretrained(tmp_path)
    megabytes = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) / 2**20
    code = """
import sys, resource
from onegen_integrations import MemoryPassages, OneGen, Passage
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
OneGen.from_pretrained(sys.argv[2]).generate("warm up", max_new_tokens=2)
before = resident()
embedder = OneGen.from_pretrained(sys.argv[1])
generator = OneGen.from_pretrained(sys.argv[1]) if sys.argv[3] == "once" else OneGen(
    *(lambda m: (m.model.__class__.from_pretrained(sys.argv[1]), m.tokenizer, m.config))(embedder))
source = MemoryPassages(embedder)
source.add([Passage("a", "Tolmar is a city.")])
generator.generate("Which city?", passages=source, retrieval="always", max_new_tokens=4)
print(resident() - before)
"""

    def grown(how: str) -> float:
        command = [sys.executable, "-c", code, str(tmp_path), str(tiny_folder), how]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(result.stdout.split()[-1])

    once, twice = grown("once"), grown("twice")
    assert once < 1.5 * megabytes
    assert twice - once > 0.7 * megabytes


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        OneGen.from_pretrained(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        OneGen.from_pretrained(tmp_path)


def test_weights_that_are_not_safetensors_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="can run code and are not loaded"):
        OneGen.from_pretrained(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        OneGen.from_pretrained(folder)


def test_a_checkpoint_without_config_says_how_to_give_one(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(ConfigError, match="config='multi_hop'"):
        OneGen.from_pretrained(folder)
    assert OneGen.from_pretrained(folder, config="mini").config == OneGenConfig.preset("mini")


def test_a_checkpoint_without_the_tokens_of_the_config_says_which(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no single token for \['\[Question Representation\]'"):
        OneGen.from_pretrained(tiny_folder, config="multi_hop")


def test_a_token_without_a_row_in_the_embedding_is_refused(folder: Path) -> None:
    model = OneGen.from_pretrained(folder)
    tokenizer = model.tokenizer.__class__.from_pretrained(folder)
    tokenizer.add_tokens(["[LK]", "[SE]", "[_CONTINUE_]"], special_tokens=True)
    with pytest.raises(ConfigError, match=r"\['\[LK\]', '\[SE\]', '\[_CONTINUE_\]'\] have no row"):
        OneGen(model.model, tokenizer, OneGenConfig.preset("entity_linking"))


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Unknown preset 'multihop'; allowed are"):
        OneGenConfig.preset("multihop")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_survives_its_file(name: str, tmp_path: Path) -> None:
    PRESETS[name].save(tmp_path)
    assert OneGenConfig.from_file(tmp_path / CONFIG_FILE) == PRESETS[name]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"query_token": "[Q]"}, "needs the fields"),
        ({"query_token": "[Q]", "document_token": "[D]", "querytoken": 1}, r"Unknown fields \['querytoken'\]"),
        ({"query_token": "[Q]", "document_token": "[Q]"}, "must differ"),
        ({"query_token": "[Q]", "document_token": "[D]", "passage_template": "<p>"}, r"\{text\} exactly once"),
        ({"query_token": "[Q]", "document_token": "[D]", "title_template": "<h>"}, r"\{title\} exactly once"),
        ({"query_token": "[Q]", "document_token": "[D]", "prompt_template": "{prompt}{prompt}"}, "exactly once"),
        ({"query_token": "[Q]", "document_token": "[D]", "passage_attention": "both"}, "'causal' and 'isolated'"),
        ({"query_token": "[Q]", "document_token": "[D]", "passage_attention": "isolated"}, "after_passages"),
        ({"query_token": "[Q]", "document_token": "[D]", "query_suffix": "Q"}, "must end in the query token"),
    ],
)
def test_a_config_that_cannot_work_is_refused(values: dict[str, object], reason: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=reason):
        OneGenConfig.from_file(tmp_path / CONFIG_FILE)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_config_file_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        OneGenConfig.from_file(tmp_path / CONFIG_FILE)


def test_fingerprints_tell_weights_templates_and_precision_apart(tiny_folder: Path, folder: Path) -> None:
    model = OneGen.from_pretrained(tiny_folder)
    half = OneGen.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    values = model.config.to_dict() | {"query_suffix": "Query: [RQ]"}
    other_template = OneGen.from_pretrained(tiny_folder, config=OneGenConfig.from_dict(values))
    changed = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        changed.model.norm.weight.mul_(1.01)
    other_weights = OneGen(changed, model.tokenizer, model.config)
    prints = [m.fingerprint for m in (model, half, other_template, other_weights)]
    assert len(set(prints)) == 4
    assert all(len(fingerprint) == 16 for fingerprint in prints)


# --- adapters -------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the tiny checkpoint that changes it."""
    peft = pytest.importorskip("peft")
    base = LlamaForCausalLM.from_pretrained(tiny_folder)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_makes_another_model(tiny_folder: Path, adapter: Path) -> None:
    plain, adapted = OneGen.from_pretrained(tiny_folder), OneGen.from_pretrained(tiny_folder, adapter=adapter)
    assert adapted.fingerprint != plain.fingerprint
    assert not np.allclose(adapted.embed_queries(["Who?"]), plain.embed_queries(["Who?"]), atol=1e-4)
    assert adapted.generate("Who?", max_new_tokens=4).usage.completion_tokens == 4


def test_an_adapter_that_cannot_be_loaded_is_named(tiny_folder: Path, adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere cannot be loaded as an adapter"):
        OneGen.from_pretrained(tiny_folder, adapter=adapter / "nowhere")
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        OneGen.from_pretrained(tiny_folder, adapter=adapter)


def test_code_in_a_checkpoint_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": classes}))
    (folder / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        OneGen.from_pretrained(folder)

"""`pairsight convert-weights`: pickles become safetensors that plain transformers and peft load; no code runs."""

import json
import os
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from families import build
from pairsight.cli.main import main
from pairsight.models.checkpoints.files import Planned, WeightFiles, write_weights
from pairsight.models.folders import check_model
from pairsight.models.load import quiet

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny Llama as transformers saves it."""
    return build("llama", tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def sharded(plain, tmp_path):
    """The same as older versions saved it: two pickles with an index, a pickle of the training and code beside them."""
    folder = tmp_path / "old model"
    shutil.copytree(plain, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    halves = dict(zip(names, (sorted(state)[::2], sorted(state)[1::2]), strict=True))
    for name, half in halves.items():
        torch.save({key: state[key] for key in half}, folder / name)
    where = {key: name for name, half in halves.items() for key in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    torch.save({"learning_rate": 1e-3}, folder / "training_args.bin")
    (folder / "modeling_own.py").write_text("raise SystemExit('code of the folder ran')")
    return folder


def convert(source, target, capsys):
    status = main(["convert-weights", str(source), str(target)])
    out, err = capsys.readouterr()
    return status, out, err


def refused(source, target, capsys):
    """The one line of a refusal, after which there is no target."""
    status, out, err = convert(source, target, capsys)
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert not target.exists()
    return err


def test_shards_become_safetensors_that_transformers_loads(plain, sharded, tmp_path, capsys):
    target = tmp_path / "new"
    status, out, err = convert(sharded, target, capsys)
    assert (status, err) == (0, "")
    expected = load_file(plain / "model.safetensors")
    assert out.startswith(f"{target}: {len(expected)} tensors, 0.00 GB\n")
    assert "not copied, because it is code: modeling_own.py" in out
    found = load_file(target / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {path.name for path in target.iterdir()} == {path.name for path in plain.iterdir()}
    check_model(target)
    with quiet():
        one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (plain, target))
    ids = torch.tensor([[1, 7, 30]])
    assert torch.equal(one(ids).logits, other(ids).logits)


def test_a_missing_shard_and_files_that_do_not_belong_together_are_named(sharded, tmp_path, capsys):
    (sharded / "pytorch_model-00002-of-00002.bin").unlink()
    assert "lacks 1 of the 2 files" in refused(sharded, tmp_path / "new", capsys)
    (sharded / "pytorch_model.bin.index.json").unlink()
    assert "lacks some of its weight files" in refused(sharded, tmp_path / "new", capsys)
    (sharded / "pytorch_model-00001-of-00002.bin").rename(sharded / "a.bin")
    shutil.copyfile(sharded / "a.bin", sharded / "b.bin")
    assert "several weight files (a.bin, b.bin)" in refused(sharded, tmp_path / "new", capsys)
    assert convert(sharded / "a.bin", tmp_path / "new", capsys)[0] == 0


class _Code:
    """A pickle of it names a function of the system, which a plain unpickler would call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_in_one_line_and_nothing_of_it_runs(plain, tmp_path, capsys, zipped, monkeypatch):
    folder, trace = tmp_path / "planted", tmp_path / "it ran"
    shutil.copytree(plain, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save({**state, "extra": _Code(trace)}, file, _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    error = refused(folder, tmp_path / "new", capsys)
    assert "names code (posix.mkdir)" in error and "nothing of it ran" in error
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.is_dir(), "the planted pickle is a real one"


def test_what_is_no_state_dict_is_refused(tmp_path, capsys):
    file, target = tmp_path / "weights.pt", tmp_path / "new"
    for content, message in [
        ([torch.ones(2)], "holds a list and no weights by name"),
        ({"epoch": 3, "lr": 0.1}, "holds a dict with epoch, lr and no weights"),
        ({"a": torch.ones(2), "step": 3}, "'step' is a int, not a tensor"),
        ({"a": torch.ones(2), 5: torch.ones(1)}, "'5' is a Tensor, not"),
        ({"a": torch.eye(2).to_sparse()}, "sparse"),
    ]:
        torch.save(content, file)
        assert message in refused(file, target, capsys)
    whole = file.read_bytes()
    for content, message in [
        (whole[: len(whole) // 2], "is damaged, or no checkpoint"),
        (b"", "is damaged, or no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
    ]:
        file.write_bytes(content)
        assert message in refused(file, target, capsys)
    torch.jit.script(torch.nn.Linear(1, 1)).save(file)
    assert "TorchScript archive, which is a program" in refused(file, target, capsys)
    assert "no folder or file" in refused(tmp_path / "nothing", target, capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no weights" in refused(tmp_path / "empty", target, capsys)
    (tmp_path / "notes.txt").write_text("x")
    assert "is not a pickle" in refused(tmp_path / "notes.txt", target, capsys)


def test_the_target_must_be_empty(sharded, tmp_path, capsys):
    target = tmp_path / "new"
    target.mkdir()
    (target / "mine.txt").write_text("x")
    status, _, err = convert(sharded, target, capsys)
    assert status == 1 and "is not empty" in err
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    status, _, err = convert(sharded, sharded, capsys)
    assert status == 1 and "is not empty" in err


def test_what_a_killed_conversion_left_is_written_again(sharded, tmp_path, capsys):
    draft = tmp_path / ".nü wörld.draft"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"cut")
    target = tmp_path / "nü wörld"
    target.mkdir()
    assert convert(sharded, target, capsys)[0] == 0
    assert not draft.exists()
    check_model(target)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_share_memory_are_each_written_and_views_are_cut_out(tmp_path, capsys, zipped):
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "embed": shared, "head": shared, "row": shared[1], "turned": shared.T, "half": torch.full((3,), 0.1).bfloat16(),
        "number": torch.tensor(7), "flags": torch.tensor([True, False]), "none": torch.empty(0, 4),
        "trained": torch.nn.Parameter(torch.ones(2)), "byte": torch.tensor([3], dtype=torch.uint8),
    }  # fmt: skip
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    assert convert(tmp_path / "last.ckpt", tmp_path / "new", capsys)[0] == 0
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_many_files_are_written_with_an_index_that_transformers_reads(plain, tmp_path):
    target = tmp_path / "new"
    shutil.copytree(plain, target, ignore=shutil.ignore_patterns("*.safetensors"))
    expected = load_file(plain / "model.safetensors")
    tensors = list(WeightFiles([plain / "model.safetensors"]).planned.values())
    largest = 60_000
    files = write_weights(target, tensors, largest=largest)
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-0000{len(files)}.safetensors"
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in expected.values())
    assert index["weight_map"].keys() == expected.keys()
    check_model(target)
    with quiet():
        found = AutoModelForCausalLM.from_pretrained(target).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    """Each tensor is made when its turn comes, and dropped before the next one is made."""
    alive, most = 0, 0

    class Counted(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def make():
        nonlocal alive, most
        alive, most = alive + 1, max(most, alive + 1)
        return torch.ones(4).as_subclass(Counted)

    write_weights(tmp_path, [Planned(f"t{n}", (4,), torch.float32, make) for n in range(5)], largest=40)
    assert most <= 2
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 3


def test_an_adapter_with_pickled_weights_is_converted_and_the_error_about_it_says_how(plain, tmp_path, capsys):
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(plain)
        policy = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        policy.save_pretrained(tmp_path / "adapter")
    adapter = tmp_path / "adapter"
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    status = main([
        "evaluate", "--model", str(plain), "--adapter", f"a={adapter}", "--benchmark", f"pope={plain / 'config.json'}",
        "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    error = capsys.readouterr().err
    assert status == 1
    assert f"convert them: pairsight convert-weights {adapter} {adapter}-safetensors" in error
    assert convert(adapter, tmp_path / "new", capsys)[0] == 0
    ids = torch.tensor([[1, 7, 30]])
    with quiet():
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(plain), tmp_path / "new")
    assert torch.equal(again(ids).logits, policy.eval()(ids).logits)

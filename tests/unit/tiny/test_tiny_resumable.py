"""Training that was cut off goes on as if it had not been."""

import pytest
import torch

from pairsight.tiny.train.resumable import Averages, Stepper, step_generator, train_steps

torch.set_num_threads(1)


class CutOffError(Exception):
    pass


def train(file, steps, cut_before=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    averages = Averages(list(model.parameters()), 0.9)
    stepper = Stepper([{"params": list(model.parameters()), "lr": 0.1}], steps)

    def step(index):
        if index == cut_before:
            raise CutOffError
        given = torch.randn(8, 4, generator=step_generator(1, index))
        stepper.step((model(given)[:, 0] - given.sum(1)).pow(2).mean())
        averages.follow(index)

    train_steps(file, steps, {"model": model, "averages": averages, "stepper": stepper}, step, save_every_s=-1)
    return model, averages


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path):
    whole, its_averages = train(tmp_path / "whole.safetensors", 20)
    with pytest.raises(CutOffError):
        train(tmp_path / "cut.safetensors", 20, cut_before=13)
    resumed, averages = train(tmp_path / "cut.safetensors", 20)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(its_averages.state_dict()["0"], averages.state_dict()["0"])
    assert not torch.equal(averages.state_dict()["0"], resumed.weight)


def test_a_finished_training_is_read_back_without_a_step(tmp_path):
    first, _ = train(tmp_path / "done.safetensors", 5)
    again, _ = train(tmp_path / "done.safetensors", 5, cut_before=0)
    assert torch.equal(first.weight, again.weight)


def test_averages_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    averages = Averages([weight], 0.5)
    weight.data.fill_(3.0)
    averages.follow(0)  # decay 1/10: 0.1 · 1 + 0.9 · 3
    assert averages.state_dict()["0"].item() == pytest.approx(2.8)
    averages.follow(100)  # decay 0.5, not 101/110
    assert averages.state_dict()["0"].item() == pytest.approx(2.9)
    averages.copy_to_weights()
    assert weight.item() == pytest.approx(2.9)

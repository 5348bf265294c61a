"""In bf16 every fast path of a forward pass is taken, at each recipe's own defaults."""

from collections import Counter

import pytest
import torch

from backward_graph import operations_behind
from pairsight.engine.progress import Progress
from pairsight.recipes.feedback import Feedback
from pairsight.recipes.seva import SeVa
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.training.trainer import PreferenceTrainer

LAYERS, LINEAR = 2, 7


class CapturedError(Exception):
    """The policy and the step with which a training enters its loop."""


def captured(*arguments):
    raise CapturedError(*arguments)


@pytest.mark.parametrize("recipe", [SeVa, Feedback, Synthetic])
def test_every_fast_path_is_taken_at_a_recipes_own_defaults(small, tmp_path, monkeypatch, recipe):
    defaults = recipe.default_training
    trainer = PreferenceTrainer(
        small.model, out=tmp_path / "out", images=small.images, defaults=defaults, bf16=True, progress=Progress("quiet")
    )
    monkeypatch.setattr(trainer, "_run_loop", captured)
    with pytest.raises(CapturedError) as caught:
        trainer.train(small.pairs(1))
    policy, step, _ = caught.value.args
    lora = next(m for m in policy.modules() if hasattr(m, "lora_A"))
    assert lora.r["default"] == defaults.lora_r
    assert getattr(lora.lora_dropout["default"], "p", 0.0) == defaults.lora_dropout
    widths = []
    layers = policy.get_base_model().model.language_model.layers
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, out: widths.append((out.shape[1], out.dtype)))
    policy.train()
    (rows,) = step.scorer.passes([0])
    total = step.scorer.score(step.scorer.packed(policy), rows).sums_Q.sum()
    counts = Counter(node.name() for node in operations_behind(total))

    paths = small.pairs(1)[0]
    spans = 1 + len(paths.rejected)  # the prompt with the chosen completion, then each rejected one
    assert counts["_LoraLinearBackward"] == LAYERS * LINEAR
    projector = 2 if defaults.projector_learning_rate else 0  # linear layers that are trained in full
    assert counts["_NormBackward"] == 2 * LAYERS - (projector == 0)  # below the first norm nothing is trained then
    assert counts["_RotationBackward"] == 2 * LAYERS
    assert counts["_SeenBackward"] == 2 * LAYERS
    assert sum(n for name, n in counts.items() if name.startswith("ScaledDotProduct")) == LAYERS * spans
    assert counts["_FrozenHeadBackward"] == 1
    assert counts["MmBackward0"] + counts["AddmmBackward0"] == projector  # no other product with a weight
    (whole, kind), (short, last_kind) = widths
    assert kind == last_kind == torch.bfloat16
    example = step.scorer.examples[0]
    assert whole == example.num_tokens
    assert short < whole - example.sequences[0].prompt_length + len(example.sequences)  # the predicting tokens only

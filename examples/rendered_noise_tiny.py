"""How often SeVa's noise, rendered to 8 bits for a server, changes a completion; it takes no arguments.

On the embedded base, at noise steps 500 and 800: the share of greedy completions that equal those to the unclipped
tensor, for the rendered picture, another draw of the noise and the clean picture; and the shift of normalised pixels.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from pairsight.formats.prompts import read_prompts
from pairsight.images.rendering import Rendering, rendered, shift
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Sampling
from pairsight.recipes.seva import SeVa
from pairsight.records import CompletionRequest, ImageRef, Prompt
from pairsight.tiny.world.world_files import write_world

PROMPTS = 80
SQUARE = Rendering(size=48)


def distorted(prompt: Prompt, step: int, seed: int = 0) -> tuple[CompletionRequest, CompletionRequest]:
    """The requests for the completion to the clean image and to the distorted one."""
    clean, noisy = SeVa(noise_step=step, seed=seed).requests(prompt)
    return clean, noisy


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", scenes=30, prompt_scenes=30)
        prompts = read_prompts(world / "prompts.json", images=world / "images", limit=PROMPTS)
        model = LocalVLM(world / "model", prompts.images)
        for step in (500, 800):
            pairs = [distorted(prompt, step) for prompt in prompts]
            shown = [
                tuple(replace(ref, distortion=rendered(ref.distortion, SQUARE)) for ref in noisy.images or ())
                for _, noisy in pairs
            ]
            asked = {
                "tensor": [noisy for _, noisy in pairs],
                "rendered": [replace(noisy, images=refs) for (_, noisy), refs in zip(pairs, shown, strict=True)],
                "another draw": [distorted(prompt, step, seed=1)[1] for prompt in prompts],
                "clean": [clean for clean, _ in pairs],
            }
            said = {
                name: [completion.text for completion in model.generate(requests, Sampling(max_new_tokens=48))]
                for name, requests in asked.items()
            }
            equal = {
                name: sum(map(str.__eq__, texts, said["tensor"])) / len(texts)
                for name, texts in said.items()
                if name != "tensor"
            }
            shifts = [shift(prompts.images.open(ImageRef(refs[0].sha256)), refs[0].distortion) for refs in shown]
            largest, mean = max(most for most, _ in shifts), sum(mean for _, mean in shifts) / len(shifts)
            print(f"step {step}: {', '.join(f'{name} {share:.1%}' for name, share in equal.items())}; ", end="")
            print(f"shift at most {largest:.2f}, {mean:.3f} in the mean")


if __name__ == "__main__":
    main()

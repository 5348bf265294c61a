"""The profiles that are shipped.

Source: LLaVA-1.5 as its authors run it (github.com/haotian-liu/LLaVA): the conversation templates `vicuna_v1` and
`llava_v1` (which SHR asks with), `image_aspect_ratio: pad` of the published config, and tokenising around `<image>`.
"""

from pairsight.models.profiles.profile import Profile, Turns

_SYSTEM = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)
_CLIP_COLOUR = (122, 116, 104)
"""int(255 · mean) of CLIP's image processor, which all LLaVA-1.5 models have."""

LLAVA_1_5 = Profile(
    name="llava-1.5", system=_SYSTEM.format("user", "user"), turns=Turns(), pad="square", pad_colour=_CLIP_COLOUR
)
LLAVA_V1 = Profile(
    name="llava_v1", system=_SYSTEM.format("human", "human"), turns=Turns(), pad="square", pad_colour=_CLIP_COLOUR
)
LLAVA_1_5_IMAGES = Profile(name="llava-1.5-images", pad="square", pad_colour=_CLIP_COLOUR)
"""Only what happens to images: for a server, whose chat template writes the prompt."""

"""The table of published detectors: each row says how its file is read. A new one is a new row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_deepfake.card import Feature

from deepfake_tools.checkpoints.layouts import EFFORT, HUGGING_FACE, OPENAI, Layout, Shape

NON_COMMERCIAL = "CC BY-NC 4.0"
LARGE = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint, by its keys and shapes.

    Attributes:
        name: short, for the card.
        title: for people.
        licence: of the repository that publishes it; None where it states none.
        head: prefixes of the linear maps from the feature to the logits, the first applied first.
        outputs: logits of the last of them.
        feature: what of the encoder the first of them reads.
        preset: of the preprocessing.
        l2_normalize: whether the feature is divided by its Euclidean norm first.
        tower: prefix of the vision tower; None where the file holds the head alone.
        layout: the names after that prefix.
        projection: name of the visual projection, where the layout has none and the head needs it.
        left_out: shell patterns of the tensors that the detector goes without.
        sizes: symbols of the layout that this family fixes.
        setting: key and value in the file's ``config.json``, where families differ in nothing else.
        encoder: the Hub's name of the encoder that a head alone was trained on.
        threshold: FAKE is answered above it.
    """

    name: str
    title: str
    licence: str | None
    head: tuple[str, ...]
    outputs: int
    feature: Feature
    preset: str
    l2_normalize: bool = False
    tower: str | None = None
    layout: Layout = HUGGING_FACE
    projection: str | None = None
    left_out: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    setting: tuple[str, str] | None = None
    encoder: str | None = None
    threshold: float = 0.5

    def shapes(self, layers: int) -> dict[str, Shape]:
        """Names and shapes of everything that the detector uses, for this many layers."""
        wanted: dict[str, Shape] = {}
        if self.tower is not None:
            wanted = {self.tower + k: shape for k, shape in self.layout.shapes(layers).items()}
        if self.projection is not None:
            wanted[self.projection] = ("D", "H")
        width = "H" if self.feature == "pooler_output" else "D"
        widths: list[int | str] = [width, *["E"] * (len(self.head) - 1), self.outputs]
        for prefix, inputs, outputs in zip(self.head, widths, widths[1:], strict=False):
            wanted[f"{prefix}weight"] = (outputs, inputs)
            wanted[f"{prefix}bias"] = (outputs,)
        return wanted


_OPENAI_TEXT = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.*")


def _openai_text_tower(prefix: str) -> tuple[str, ...]:
    names = (*_OPENAI_TEXT, "ln_final.*", "transformer.resblocks.*")
    return tuple(prefix + name for name in names)


# Effort froze the main weight's factors for a loss; forward passes use their product, weight_main.
_EFFORT_FACTORS = ("*.U_r", "*.S_r", "*.V_r")

# In the order of preference, where a file fits two rows: DF40's differs from DeepfakeBench's in the
# encoder's size alone. Where each fact stands: the code named in the README's table of families.
FAMILIES = (
    Family(
        name="UniversalFakeDetect",
        title="UniversalFakeDetect (CVPR 2023), the head alone",
        licence="MIT",
        head=("",),
        outputs=1,
        feature="image_embeds",
        preset="crop",
        encoder=LARGE,
    ),
    Family(
        name="UniversalFakeDetect",
        title="UniversalFakeDetect (CVPR 2023), as its train.py saves it",
        licence="MIT",
        head=("fc.",),
        outputs=1,
        feature="image_embeds",
        preset="crop",
        tower="model.visual.",
        layout=OPENAI,
        left_out=_openai_text_tower("model."),
    ),
    Family(
        name="DF40 clip",
        title="DF40's clip on ViT-L/14",
        licence=NON_COMMERCIAL,
        head=("head.",),
        outputs=2,
        feature="pooler_output",
        preset="squash-cubic",
        tower="backbone.",
        sizes={"H": 1024},
    ),
    Family(
        name="DF40 clip",
        title="DF40's clip, with base_model for the encoder and classifier for the head",
        licence=NON_COMMERCIAL,
        head=("classifier.",),
        outputs=2,
        feature="pooler_output",
        preset="squash-cubic",
        tower="base_model.",
    ),
    Family(
        name="DeepfakeBench clip",
        title="DeepfakeBench's clip",
        licence=NON_COMMERCIAL,
        head=("head.",),
        outputs=2,
        feature="pooler_output",
        preset="squash-cubic",
        tower="backbone.",
    ),
    Family(
        name="Effort",
        title="Effort (ICML 2025), as DeepfakeBench saves it",
        licence=NON_COMMERCIAL,
        head=("head.",),
        outputs=2,
        feature="pooler_output",
        preset="squash",
        tower="backbone.",
        layout=EFFORT,
        left_out=_EFFORT_FACTORS,
    ),
    Family(
        name="Effort",
        title="Effort (ICML 2025), as its UniversalFakeDetect benchmark saves it",
        licence=NON_COMMERCIAL,
        head=("fc.",),
        outputs=1,
        feature="pooler_output",
        preset="tile-crop",
        tower="model.vision_model.",
        layout=EFFORT,
        left_out=(
            "model.text_model.*",
            "model.text_projection.weight",
            "model.visual_projection.weight",
            "model.logit_scale",
            *_EFFORT_FACTORS,
        ),
    ),
    Family(
        name="C2P-CLIP",
        title="C2P-CLIP (AAAI 2025)",
        licence=None,
        head=("model.fc.",),
        outputs=1,
        feature="image_embeds",
        preset="resize-crop",
        l2_normalize=True,
        tower="model.vision_model.",
        projection="model.visual_projection.weight",
    ),
    Family(
        name="GenD",
        title="GenD (WACV 2026), head linear",
        licence="MIT",
        head=("model.linear.",),
        outputs=2,
        feature="pooler_output",
        preset="clip",
        tower="feature_extractor.vision_model.",
        left_out=("feature_extractor.visual_projection.weight",),
        setting=("head", "linear"),
    ),
    Family(
        name="GenD",
        title="GenD (WACV 2026), head LinearNorm",
        licence="MIT",
        head=("model.linear.",),
        outputs=2,
        feature="pooler_output",
        preset="clip",
        l2_normalize=True,
        tower="feature_extractor.vision_model.",
        left_out=("feature_extractor.visual_projection.weight",),
        setting=("head", "LinearNorm"),
    ),
    Family(
        name="DRCT",
        title="DRCT (ICML 2024), its CLIP variant",
        licence=None,
        head=("model.fc.", "fc."),
        outputs=2,
        feature="image_embeds",
        preset="pad-crop",
        tower="model.model.visual.",
        layout=OPENAI,
        left_out=_openai_text_tower("model.model."),
    ),
)

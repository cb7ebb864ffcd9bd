"""The table of published detectors: each row says how its file is read. A new one is a new row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from clip_deepfake.card import Feature
from clip_deepfake.encoder import UNREAD

from deepfake_tools.packaging.checkpoints.layouts import (
    Layout,
    Origin,
    dinov3,
    effort,
    hugging_face,
    hugging_face_tower,
    openai,
)
from deepfake_tools.packaging.checkpoints.shapes import FIRST_LAYER, Dimension, Shape, read_shapes

NON_COMMERCIAL = "CC BY-NC 4.0"
LARGE = "openai/clip-vit-large-patch14"
CLIP = "CLIPVisionModelWithProjection"
DINOV3 = "DINOv3ViTModel"

WIDTHS: Mapping[Feature, Dimension] = {
    "pooler_output": Dimension("hidden_size"),
    "class_token": Dimension("hidden_size"),
    "image_embeds": Dimension("projection_dim"),
}
"""How many numbers a head reads."""


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
        architecture: name of transformers' class that the encoder is.
        tower: prefix of the encoder; None where the file holds the head alone.
        layout: the names after that prefix.
        left_out: shell patterns of the tensors that the detector goes without.
        sizes: of the encoder, where this family fixes them.
        setting: key and value in the file's ``config.json``, where families differ in nothing else.
        backbone: of ``GEND_WORDS``, the one that tells this encoder.
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
    architecture: str = CLIP
    tower: str | None = None
    layout: Layout = hugging_face_tower
    left_out: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    setting: tuple[str, str] | None = None
    backbone: str | None = None
    encoder: str | None = None
    threshold: float = 0.5

    def origins(self, layers: int) -> dict[str, Origin]:
        """Where the file keeps the encoder's parameters, by transformers' names.

        Those that the head does not depend on are not among them.

        Args:
            layers: of the encoder.
        """
        if self.tower is None:
            return {}
        found: dict[str, Origin] = {}
        for parameter, shape in read_shapes(self.architecture).items():
            if parameter.startswith(UNREAD[self.feature]):
                continue
            origin = self.layout(parameter, shape)
            for number in range(layers if FIRST_LAYER in parameter else 1):
                found[_in_layer(number, parameter)] = Origin(
                    {self.tower + _in_layer(number, k): part for k, part in origin.shapes.items()},
                    origin.join,
                )
        return found

    def shapes(self, layers: int) -> dict[str, Shape]:
        """Names and shapes of everything that the detector uses, for this many layers."""
        wanted = {
            k: v for origin in self.origins(layers).values() for k, v in origin.shapes.items()
        }
        between = [Dimension("inner_size")] * (len(self.head) - 1)
        widths: list[int | Dimension] = [WIDTHS[self.feature], *between, self.outputs]
        for prefix, inputs, outputs in zip(self.head, widths, widths[1:], strict=False):
            wanted[f"{prefix}weight"] = (outputs, inputs)
            wanted[f"{prefix}bias"] = (outputs,)
        return wanted


def _in_layer(number: int, name: str) -> str:
    """The name that one in the first layer has in another; any other stays."""
    return name.replace(FIRST_LAYER, f".{number}.")


_OPENAI_TEXT = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.*")


def _openai_text_tower(prefix: str) -> tuple[str, ...]:
    names = (*_OPENAI_TEXT, "ln_final.*", "transformer.resblocks.*")
    return tuple(prefix + name for name in names)


# Effort froze the main weight's factors for a loss; forward passes use their product, weight_main.
_EFFORT_FACTORS = ("*.U_r", "*.S_r", "*.V_r")

GEND_WORDS = ("clip", "vit_pe", "dino")
"""In ``backbone`` of GenD's settings: the first of them that is there tells the encoder."""

GEND_ON_CLIP = Family(
    name="GenD",
    title="GenD (WACV 2026), head linear",
    licence="MIT",
    head=("model.linear.",),
    outputs=2,
    feature="pooler_output",
    preset="clip",
    tower="feature_extractor.",
    layout=hugging_face,
    left_out=("feature_extractor.visual_projection.weight",),
    setting=("head", "linear"),
    backbone="clip",
)

# Its heads, rotary positions and biases are transformers' defaults for DINOv3: no tensor tells them
# and GenD's config.json names the encoder alone. Every DINOv3 below the 7B has heads of 64.
GEND_ON_DINOV3 = replace(
    GEND_ON_CLIP,
    title="GenD (WACV 2026) on DINOv3, head linear",
    licence="MIT; the encoder's is the DINOv3 License",
    feature="class_token",
    preset="dinov3",
    architecture=DINOV3,
    tower="feature_extractor.backbone.",
    layout=dinov3,
    left_out=(),
    backbone="dino",
)


def gend_word(backbone: object) -> str | None:
    """What GenD's own code, which asks for no more than a word, takes for the encoder."""
    return next((word for word in GEND_WORDS if word in str(backbone).lower()), None)


def _normalised(linear: Family) -> Family:
    """The same with the other of GenD's heads, which divides the feature by its norm."""
    kind = "LinearNorm"
    title = linear.title.replace("linear", kind)
    return replace(linear, title=title, l2_normalize=True, setting=("head", kind))


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
        layout=openai,
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
        sizes={"hidden_size": 1024},
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
        layout=effort,
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
        layout=effort,
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
        tower="model.",
        layout=hugging_face,
    ),
    GEND_ON_CLIP,
    _normalised(GEND_ON_CLIP),
    GEND_ON_DINOV3,
    _normalised(GEND_ON_DINOV3),
    Family(
        name="DRCT",
        title="DRCT (ICML 2024), its CLIP variant",
        licence=None,
        head=("model.fc.", "fc."),
        outputs=2,
        feature="image_embeds",
        preset="pad-crop",
        tower="model.model.visual.",
        layout=openai,
        left_out=_openai_text_tower("model.model."),
    ),
)

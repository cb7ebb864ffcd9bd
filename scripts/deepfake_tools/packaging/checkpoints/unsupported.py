"""Checkpoints that are known and cannot be packaged, each with the reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Unsupported:
    """A kind of checkpoint that cannot be packaged.

    Attributes:
        title: what it is.
        signs: shell patterns; a file in which each of them matches a name is of this kind.
        reason: why it cannot be packaged, and what could be.
    """

    title: str
    signs: tuple[str, ...]
    reason: str


_RINE = "its head reads all layers of the encoder, not one feature, through layers of its own"
_D3 = "its head compares two passes, over the image and over its shuffled patches, by attention"
_FATFORMER = "it has adapters inside the encoder, and compares images with texts"
_ADAPTER = "a second network steers the encoder's attention, and its head is no linear layer"
_AIDE = "its encoders are a ConvNeXt and two ResNets, none of them a vision transformer"
_RESNET = "its encoder is a ResNet; this project serves CLIP's vision transformers"
_LORA = (
    "it holds low-rank updates without the sums that they belong to; merge them where it was "
    "trained (merge_and_unload() in peft), and save the whole model"
)
_NO_HEAD = (
    "it has no detector's head; give its Hub name or folder with --model, and the head with "
    "--weights"
)

GENDS_SERVED = (
    "of GenD those on CLIP and DINOv3 are served, such as yermandy/GenD_CLIP_L_14 and "
    "yermandy/GenD_DINOv3_L"
)
GEND_ON_PE = "GenD (WACV 2026) on Perception Encoder"
GEND_ON_PE_REASON = (
    f"timm's models need torchvision, which this project does without; {GENDS_SERVED}"
)

UNSUPPORTED = (
    Unsupported("LoRA or another peft adapter", ("*lora_[AB]*",), _LORA),
    Unsupported("RINE (ECCV 2024)", ("alpha", "proj1.*", "proj2.*"), _RINE),
    Unsupported("D3", ("query.weight", "key.weight", "value.weight"), _D3),
    Unsupported("D3", ("attention_head.query.weight",), _D3),
    Unsupported("FatFormer (CVPR 2024)", ("*forgery_aware_adapter*",), _FATFORMER),
    Unsupported("FatFormer (CVPR 2024)", ("*language_guided_alignment*",), _FATFORMER),
    Unsupported("FatFormer (CVPR 2024)", ("*text_guided_interactor*",), _FATFORMER),
    Unsupported("Forensics Adapter (CVPR 2025)", ("clip_model.*", "adapter.*"), _ADAPTER),
    Unsupported("Forensics Adapter (CVPR 2025)", ("rec_attn_clip.*",), _ADAPTER),
    Unsupported("AIDE (ICLR 2025)", ("hpf.hpf.weight",), _AIDE),
    Unsupported("AIDE (ICLR 2025)", ("openclip_convnext_xxl.*",), _AIDE),
    Unsupported(GEND_ON_PE, ("feature_extractor.backbone.blocks.*",), GEND_ON_PE_REASON),
    Unsupported(
        "GenD (WACV 2026) on DINOv2", ("feature_extractor.backbone.encoder.layer.*",), GENDS_SERVED
    ),
    Unsupported("CLIP with a ResNet", ("*visual.attnpool.*",), _RESNET),
    Unsupported("CLIP", ("vision_model.embeddings.class_embedding",), _NO_HEAD),
    Unsupported("CLIP's vision tower", ("embeddings.class_embedding",), _NO_HEAD),
    Unsupported("CLIP under OpenAI's names", ("visual.class_embedding",), _NO_HEAD),
)


def find_unsupported(names: Iterable[str]) -> Unsupported | None:
    """Returns what a file with tensors of these names is known to be, if it cannot be packaged."""
    names = list(names)
    for kind in UNSUPPORTED:
        if all(any(fnmatchcase(name, sign) for name in names) for sign in kind.signs):
            return kind
    return None

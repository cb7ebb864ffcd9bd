"""Synthetic checkpoints of the published detectors, each with a computation of its logits that owes
nothing to this project: transformers, torch, OpenCV and Pillow alone, by the families' own code."""

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from deepfake_tools.demonstration.random_clip import clip_config, random_weights
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.clips import write_repository

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def narrow(hidden: int = 128, layers: int = 2) -> dict[str, Any]:
    """A CLIP with heads of 64, as all have, on 32 x 32 pixels."""
    vision = {
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "vocab_size": 99,
    }
    return clip_config(vision, text, projection=40)


@dataclass(frozen=True)
class Published:
    """A checkpoint on disk.

    Attributes:
        weights: what --weights is given.
        model: what --model is given.
        logits: of an image file, (outputs,).
    """

    weights: Path
    model: Path | None
    logits: Callable[[Path], Tensor]

    @property
    def arguments(self) -> tuple[str, ...]:
        """For build_mar.py."""
        model = () if self.model is None else ("--model", str(self.model))
        return ("--weights", str(self.weights), *model)


# --- images to pixels, by each family's own code ---------------------------------------------


def normalised(pixels: Any, statistics: tuple[Any, Any]) -> Tensor:
    mean, std = (np.array(values) for values in statistics)
    values = (np.asarray(pixels) / 255 - mean) / std
    return torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None]


def opencv_4(image: Path) -> Any:
    """What cv2.imread of the OpenCV that these families pin returns, as RGB.

    4.6.0.66 (DeepfakeBench's install.sh), 4.7.0.72 (DRCT's requirements.txt) and 4.12 turn JPEG,
    PNG and TIFF as their EXIF data says, and WebP not, which 5.0 turns as well. imdecode: 4.11 to
    5.0 cannot imread a TIFF that is turned.
    """
    flags = cv2.IMREAD_COLOR
    if image.suffix == ".webp":
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.fromfile(image, np.uint8), flags)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def opencv_squash(image: Path, side: int, interpolation: int) -> Any:
    return cv2.resize(opencv_4(image), (side, side), interpolation=interpolation)


def torchvision_crop(image: Image.Image, side: int) -> Image.Image:
    """torchvision.transforms.CenterCrop on a PIL image; Pillow itself fills with black."""

    def start(length: int) -> int:
        if length < side:
            return -((side - length) // 2)
        return round((length - side) / 2.0)

    left, top = start(image.width), start(image.height)
    return image.crop((left, top, left + side, top + side))


def univfd_pixels(image: Path, side: int) -> Tensor:
    return normalised(torchvision_crop(Image.open(image).convert("RGB"), side), CLIP)


def effort_tiled_pixels(image: Path, side: int) -> Tensor:
    """`translate_duplicate` and a centre crop, as in Effort's UniversalFakeDetect_Benchmark."""
    picture, bound = Image.open(image).convert("RGB"), side * 256 // 224
    width, height = picture.size
    if min(width, height) < bound:
        wide = width * math.ceil(bound / width)
        high = height * math.ceil(bound / height)
        canvas = Image.new("RGB", (wide, high))
        for x in range(0, wide, width):
            for y in range(0, high, height):
                canvas.paste(picture, (x, y))
        picture = canvas
    return normalised(torchvision_crop(picture, side), CLIP)


def c2p_pixels(image: Path, side: int) -> Tensor:
    picture = Image.open(image).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    if short != side:
        size = (
            (side, int(side * height / width))
            if width == short
            else (int(side * width / height), side)
        )
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return normalised(torchvision_crop(picture, side), CLIP)


def gend_pixels(image: Path, side: int) -> Tensor:
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)
    return processor(Image.open(image), return_tensors="pt")["pixel_values"]


def drct_pixels(image: Path, side: int) -> Tensor:
    """albumentations' PadIfNeeded and CenterCrop, by their published formulas."""
    rgb = opencv_4(image)
    high, wide = (max(side - length, 0) for length in rgb.shape[:2])
    top, left = int(high / 2.0), int(wide / 2.0)
    padded = cv2.copyMakeBorder(rgb, top, high - top, left, wide - left, cv2.BORDER_CONSTANT)
    y, x = (padded.shape[0] - side) // 2, (padded.shape[1] - side) // 2
    return normalised(padded[y : y + side, x : x + side], IMAGENET)


# --- encoders ---------------------------------------------------------------------------------


def clip_model(config: dict[str, Any], seed: int) -> CLIPModel:
    """transformers' CLIP with the weights of `random_weights`."""
    model = CLIPModel(CLIPConfig(**config))
    model.load_state_dict(random_weights(config, seed))
    return model.eval()


def linear(inputs: int, outputs: int, seed: int = 5) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs).eval()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor.detach().clone() for name, tensor in state.items()}


class SVDResidualLinear(nn.Module):
    """Effort's layer, unfolded: its forward pass adds the two parts up, every time.

    After DeepfakeBench/training/detectors/effort_detector.py of Effort-AIGI-Detection: all but the
    smallest singular value are frozen in `weight_main`, the rest is trained.
    """

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        kept = min(original.weight.shape) - 1
        left, values, right = torch.linalg.svd(original.weight.detach(), full_matrices=False)
        self.weight_main = nn.Parameter(left[:, :kept] * values[:kept] @ right[:kept])
        self.S_residual = nn.Parameter(values[kept:].clone())
        self.U_residual = nn.Parameter(left[:, kept:].clone())
        self.V_residual = nn.Parameter(right[kept:].clone())
        self.factors = {"S_r": values[:kept], "U_r": left[:, :kept], "V_r": right[:kept]}
        self.bias = nn.Parameter(original.bias.detach().clone())

    def perturb(self, generator: torch.Generator) -> None:
        """Stands in for training: the residual grows to a tenth of the largest singular value."""
        top = self.factors["S_r"][0]
        with torch.no_grad():
            self.S_residual.fill_(float(top) / 10)
            for factor in (self.U_residual, self.V_residual):
                noise = torch.randn(factor.shape, generator=generator) * factor.numel() ** -0.5
                factor.add_(noise)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.U_residual @ torch.diag(self.S_residual) @ self.V_residual
        return functional.linear(x, self.weight_main + residual, self.bias)


def with_residuals(model: CLIPModel) -> CLIPModel:
    """Puts Effort's layers in place of all attention projections."""
    generator = torch.Generator().manual_seed(11)
    places = [
        (layer.self_attn, name) for layer in model.vision_model.encoder.layers for name in ATTENTION
    ]
    # One at a time on each core: a decomposition gains little from threads of its own.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        residuals = list(pool.map(lambda place: SVDResidualLinear(getattr(*place)), places))
    torch.set_num_threads(threads)
    for (attention, name), residual in zip(places, residuals, strict=True):
        residual.perturb(generator)
        setattr(attention, name, residual)
    return model


def tower_state(model: CLIPModel) -> dict[str, Tensor]:
    """The vision tower alone, with names that begin with `embeddings`, `encoder`, ..."""
    return dict(model.vision_model.state_dict())


class OpenAIBlock(nn.Module):
    """One layer of the `clip` package, on torch's own attention."""

    def __init__(self, width: int, heads: int, wide: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, wide), "c_proj": nn.Linear(wide, width)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        inner = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))


class OpenAIVision(nn.Module):
    """The vision transformer of the `clip` package (clip/model.py), under its names."""

    def __init__(self, width: int = 128, layers: int = 2, side: int = 32, patch: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        positions = (side // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.randn(positions, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = [OpenAIBlock(width, width // 64, 96) for _ in range(layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.proj = nn.Parameter(torch.randn(width, 40) * width**-0.5)
        for parameter in self.parameters():
            parameter.data += torch.randn_like(parameter) * 0.02

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        tokens = self.ln_pre(tokens + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            tokens = block(tokens)
        return self.ln_post(tokens[:, 0]) @ self.proj


def openai_clip() -> tuple[OpenAIVision, dict[str, Tensor]]:
    """A vision tower, and the state of a whole CLIP of the `clip` package around it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        vision = OpenAIVision().eval()
        text = {
            "positional_embedding": torch.randn(77, 48),
            "text_projection": torch.randn(48, 40),
            "logit_scale": torch.tensor(2.6),
            "token_embedding.weight": torch.randn(99, 48),
            "ln_final.weight": torch.ones(48),
            "ln_final.bias": torch.zeros(48),
            "transformer.resblocks.0.attn.in_proj_weight": torch.randn(144, 48),
        }
    return vision, prefixed("visual.", vision.state_dict()) | text


# --- one function a row of the table ----------------------------------------------------------


def pooled(model: CLIPModel, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.vision_model(pixels).pooler_output


def embedded(model: CLIPModel, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.visual_projection(model.vision_model(pixels).pooler_output)


def save(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    torch.save(content, path)
    return path


def univfd_head(folder: Path) -> Published:
    weights = save(folder, "fc_weights.pth", linear(40, 1).state_dict())
    return on_clip(weights, folder, narrow())


def on_clip(weights: Path, folder: Path, config: dict[str, Any]) -> Published:
    """A file of UniversalFakeDetect's kind, on a CLIP with random weights."""
    repository = write_repository(folder / "clip", config)
    side, width = config["vision_config"]["image_size"], config["projection_dim"]
    model, fc = clip_model(config, 0), nn.Linear(width, 1)
    fc.load_state_dict(torch.load(weights, "cpu"))
    return Published(
        weights, repository, lambda image: fc(embedded(model, univfd_pixels(image, side)))[0]
    )


def univfd_own_training(folder: Path) -> Published:
    vision, state = openai_clip()
    fc = linear(40, 1)
    content = prefixed("model.", state) | prefixed("fc.", fc.state_dict())
    file = {"model": content, "optimizer": {"state": {}, "param_groups": []}, "total_steps": 7}
    weights = save(folder, "model_epoch_best.pth", file)
    return Published(weights, None, lambda image: fc(vision(univfd_pixels(image, 32)))[0])


def _deepfakebench(folder: Path, config: dict[str, Any], tower: str, head: str) -> Published:
    model, layer = clip_model(config, 1), linear(config["vision_config"]["hidden_size"], 2)
    state = prefixed(tower, tower_state(model)) | prefixed(head, layer.state_dict())
    # What transformers before 4.31 saved too.
    state[f"{tower}embeddings.position_ids"] = torch.arange(17)[None]
    weights = save(folder, "ckpt_best.pth", {f"module.{name}": t for name, t in state.items()})

    def logits(image: Path) -> Tensor:
        pixels = normalised(opencv_squash(image, 32, cv2.INTER_CUBIC), HALF)
        return layer(pooled(model, pixels))[0]

    return Published(weights, None, logits)


def deepfakebench(folder: Path) -> Published:
    return _deepfakebench(folder, narrow(), "backbone.", "head.")


def df40_large(folder: Path) -> Published:
    return _deepfakebench(folder, narrow(1024, 1), "backbone.", "head.")


def df40_aliases(folder: Path) -> Published:
    return _deepfakebench(folder, narrow(), "base_model.", "classifier.")


def effort(folder: Path) -> Published:
    return effort_on(folder, narrow(), with_factors=True)


def effort_on(folder: Path, config: dict[str, Any], *, with_factors: bool) -> Published:
    """As newer code saves it, with the frozen factors, or as the published files are, without."""
    model = with_residuals(clip_model(config, 2))
    head = linear(config["vision_config"]["hidden_size"], 2)
    side = config["vision_config"]["image_size"]
    state = prefixed("backbone.", tower_state(model)) | prefixed("head.", head.state_dict())
    if with_factors:
        for number, layer in enumerate(model.vision_model.encoder.layers):
            for name in ATTENTION:
                factors = getattr(layer.self_attn, name).factors
                state |= prefixed(f"backbone.encoder.layers.{number}.self_attn.{name}.", factors)
    weights = save(folder, "effort_clip.pth", {f"module.{name}": t for name, t in state.items()})

    def logits(image: Path) -> Tensor:
        pixels = normalised(opencv_squash(image, side, cv2.INTER_LINEAR), CLIP)
        return head(pooled(model, pixels))[0]

    return Published(weights, None, logits)


def effort_generated(folder: Path) -> Published:
    model, fc = with_residuals(clip_model(narrow(), 3)), linear(128, 1)
    state = prefixed("model.", model.state_dict()) | prefixed("fc.", fc.state_dict())
    file = {"model": state, "optimizer": {"state": {0: {"step": 3}}}, "total_steps": 18000}
    weights = save(folder, "model_iters_18000.pth", file)
    return Published(
        weights, None, lambda image: fc(pooled(model, effort_tiled_pixels(image, 32)))[0]
    )


def c2p(folder: Path) -> Published:
    model, fc = clip_model(narrow(), 4), linear(40, 1)
    kept = ("vision_model.", "visual_projection.")
    tower = {name: t for name, t in model.state_dict().items() if name.startswith(kept)}
    state = prefixed("model.", tower) | prefixed("model.fc.", fc.state_dict())
    weights = save(folder, "C2P_CLIP_release.pth", state)

    def logits(image: Path) -> Tensor:
        feature = embedded(model, c2p_pixels(image, 32))
        return fc(feature / feature.norm(p=2, dim=-1, keepdim=True))[0]

    return Published(weights, None, logits)


def gend(folder: Path, head: str) -> Published:
    """A repository as on the Hub: config.json without a processor's, safetensors."""
    model, layer = clip_model(narrow(), 6), linear(128, 2)
    kept = ("vision_model.", "visual_projection.")
    tower = {name: t for name, t in model.state_dict().items() if name.startswith(kept)}
    state = prefixed("feature_extractor.", tower) | prefixed("model.linear.", layer.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    config = {
        "architectures": ["GenD"],
        "backbone": "openai/clip-vit-large-patch14",
        "head": head,
        "model_type": "GenD",
    }
    (folder / "config.json").write_text(json.dumps(config))

    def logits(image: Path) -> Tensor:
        feature = pooled(model, gend_pixels(image, 32))
        return layer(functional.normalize(feature, dim=1) if head == "LinearNorm" else feature)[0]

    return Published(folder, None, logits)


def dinov3_pixels(image: Path, side: int) -> Tensor:
    """Its processor needs torchvision; Pillow's filter is the same one, but for rounding."""
    resized = Image.open(image).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return normalised(resized, IMAGENET)


def gend_on_dinov3(folder: Path, head: str) -> Published:
    """As on the Hub: the names under which transformers itself saves a DINOv3."""
    config = DINOv3ViTConfig(
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=56,
        num_register_tokens=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        model, layer = DINOv3ViTModel(config).eval(), linear(128, 2)
        for parameter in model.parameters():
            # Away from what they begin with, where biases and registers are 0.
            parameter.data += torch.randn_like(parameter) * 0.02
    model.save_pretrained(folder / "backbone")
    tower = load_file(folder / "backbone" / "model.safetensors")
    state = prefixed("feature_extractor.backbone.", tower)
    save_file(state | prefixed("model.linear.", layer.state_dict()), folder / "model.safetensors")
    backbone = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    settings = {"architectures": ["GenD"], "backbone": backbone, "head": head, "model_type": "GenD"}
    (folder / "config.json").write_text(json.dumps(settings))

    def logits(image: Path) -> Tensor:
        with torch.inference_mode():
            feature = model(dinov3_pixels(image, 224)).last_hidden_state[:, 0]
        return layer(functional.normalize(feature, dim=1) if head == "LinearNorm" else feature)[0]

    return Published(folder, None, logits)


def drct(folder: Path) -> Published:
    vision, state = openai_clip()
    inner, outer = linear(40, 56), linear(56, 2, seed=6)
    content = prefixed("model.model.", state) | prefixed("model.fc.", inner.state_dict())
    weights = save(folder, "13_acc0.9664.pth", content | prefixed("fc.", outer.state_dict()))
    return Published(weights, None, lambda image: outer(inner(vision(drct_pixels(image, 32))))[0])


ROWS: dict[str, Callable[[Path], Published]] = {
    "UniversalFakeDetect (CVPR 2023), the head alone": univfd_head,
    "UniversalFakeDetect (CVPR 2023), as its train.py saves it": univfd_own_training,
    "DF40's clip on ViT-L/14": df40_large,
    "DF40's clip, with base_model for the encoder and classifier for the head": df40_aliases,
    "DeepfakeBench's clip": deepfakebench,
    "Effort (ICML 2025), as DeepfakeBench saves it": effort,
    "Effort (ICML 2025), as its UniversalFakeDetect benchmark saves it": effort_generated,
    "C2P-CLIP (AAAI 2025)": c2p,
    "GenD (WACV 2026), head linear": lambda folder: gend(folder, "linear"),
    "GenD (WACV 2026), head LinearNorm": lambda folder: gend(folder, "LinearNorm"),
    "GenD (WACV 2026) on DINOv3, head linear": lambda folder: gend_on_dinov3(folder, "linear"),
    "GenD (WACV 2026) on DINOv3, head LinearNorm": (
        lambda folder: gend_on_dinov3(folder, "LinearNorm")
    ),
    "DRCT (ICML 2024), its CLIP variant": drct,
}
"""By the title of the table's row."""

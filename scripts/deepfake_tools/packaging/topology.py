"""Traces an encoder as OpenVINO's graph, and writes it without its weights, which lie beside it.

An OpenVINO constant is an offset and a size in a file of weights, and a safetensors file is 8 bytes
of length, a JSON header and raw tensors (https://huggingface.co/docs/safetensors, "Format"): the
graph's constants are made to point at the encoder's own tensors, so that both engines read one
file.
"""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from clip_deepfake.card import ENGINE_CONSTANTS
from clip_deepfake.decomposition import Decomposition
from clip_deepfake.encoder import Encoder, read_class_token_alone
from openvino import opset13 as op
from safetensors.torch import save_file
from torch import Tensor, nn

EXAMPLES = 2
"""Images in the pass that is traced: with one, a size of 1 would be taken for granted."""

ALIGNMENT = 8
"""Bytes, of the widest numbers that a graph holds."""

NARROW = {torch.bfloat16: ov.Type.bf16, torch.float16: ov.Type.f16}

Bytes = npt.NDArray[np.uint8]


def trace(encoder: Encoder, side: int) -> ov.Model:
    """Makes a graph of an encoder.

    Args:
        encoder: in float32; changed so that it computes no more than its feature needs.
        side: of its input, in pixels.

    Returns:
        From uint8 ``pixels`` (batch, side, side, 3) to float32 ``feature`` (batch, width), for any
        batch. Its constants share the memory of the encoder's weights.
    """
    read_class_token_alone(encoder)
    graph = _convert(encoder, torch.zeros(EXAMPLES, side, side, 3, dtype=torch.uint8))
    graph.inputs[0].set_names({"pixels"})
    graph.outputs[0].set_names({"feature"})
    return graph


def trace_decomposition(decomposition: Decomposition, side: int, width: int) -> ov.Model:
    """Makes a graph of a decomposition.

    Args:
        decomposition: of an encoder in float32.
        side: of its input, in pixels.
        width: of its feature.

    Returns:
        From uint8 ``pixels`` (batch, side, side, 3) and float32 ``directions`` (batch, width) to
        float32 ``contributions`` (batch, 1 + patches), as ``trace`` does.
    """
    pixels = torch.zeros(EXAMPLES, side, side, 3, dtype=torch.uint8)
    graph = _convert(decomposition, pixels, torch.zeros(EXAMPLES, width))
    graph.inputs[0].set_names({"pixels"})
    graph.inputs[1].set_names({"directions"})
    graph.outputs[0].set_names({"contributions"})
    return graph


def _convert(module: nn.Module, *examples: Tensor) -> ov.Model:
    """Traces a module; of its inputs, the first axis stays open."""
    shapes = [ov.PartialShape([-1, *example.shape[1:]]) for example in examples]
    with warnings.catch_warnings(), torch.inference_mode():
        # Each comparison of a size that is fixed here is warned of.
        warnings.simplefilter("ignore")
        # Left to itself, OpenVINO traces three times, to compare; the self-test does that.
        traced = torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]
        graph = ov.convert_model(traced, input=shapes)
    name_in_order(graph)
    return graph


def name_in_order(graph: ov.Model) -> None:
    """Gives the nodes names that depend on the graph alone: equal graphs are equal files then.

    The names that they come with are counted per process.
    """
    graph.set_friendly_name("encoder")
    for number, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for output in node.outputs():
            output.set_names(set())


def store_as(graph: ov.Model, tensors: Mapping[str, Tensor]) -> None:
    """Puts half-precision weights into a graph that was made of the same in float32.

    Args:
        graph: changed in place; what was a float32 constant is a smaller one, widened again.
        tensors: bfloat16 or float16.
    """
    narrow = {
        _digest(_bytes(tensor.float())): tensor
        for tensor in tensors.values()
        if tensor.dtype in NARROW
    }
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        tensor = narrow.get(_digest(_view(node.data)))
        if tensor is not None:
            shape = list(node.get_output_shape(0))
            stored = ov.Tensor(_bytes(tensor).view(np.uint16), shape, NARROW[tensor.dtype])
            narrowed = op.constant(stored)
            widened = op.convert(narrowed, np.float32)
            # Their own are counted per process.
            narrowed.set_friendly_name(node.get_friendly_name())
            widened.set_friendly_name(f"{node.get_friendly_name()}_widened")
            node.output(0).replace(widened.output(0))


def write_with_weights(
    graphs: Mapping[Path, ov.Model], tensors: Mapping[str, Tensor], weights: Path
) -> None:
    """Writes graphs and the tensors that they are made of.

    Args:
        graphs: whose constants are these tensors, but for some small ones, by the file to write
            each to, in OpenVINO's XML.
        tensors: to be written as they are; what the graphs hold besides goes with them, as a
            tensor of its own.
        weights: safetensors file to write.
    """
    constants = _Constants(tensors)
    written = [(path, *_topology(graph, constants, path.parent)) for path, graph in graphs.items()]
    save_file({**tensors, ENGINE_CONSTANTS: constants.others()}, weights)
    starts = _starts(weights)
    for path, net, places in written:
        for data, (name, offset) in zip(_constants_in(net), places, strict=True):
            data.set("offset", str(starts[name] + offset))
        ElementTree.ElementTree(net).write(path, encoding="utf-8", xml_declaration=True)


def _topology(
    graph: ov.Model, constants: "_Constants", folder: Path
) -> tuple[ElementTree.Element, list["_Place"]]:
    """A graph without what tells of the machine, and where each of its constants is."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        plain = Path(scratch, "graph.xml")
        ov.save_model(graph, plain, compress_to_fp16=False)
        net = ElementTree.parse(plain).getroot()
        content = np.memmap(plain.with_suffix(".bin"), np.uint8, "r")
        places = [constants.find(content, data) for data in _constants_in(net)]
    # By which library it was made, and how.
    for info in net.findall("rt_info"):
        net.remove(info)
    return net, places


def _constants_in(net: ElementTree.Element) -> Iterator[ElementTree.Element]:
    return net.iterfind(".//layer[@type='Const']/data")


class _Place(NamedTuple):
    """Where a constant is: in which tensor, and how many bytes into it."""

    name: str
    offset: int


class _Constants:
    """Finds the constants of graphs among tensors, and gathers those that are none of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names = {_digest(_bytes(tensor)): name for name, tensor in tensors.items()}
        self._others = bytearray()

    def find(self, content: Bytes, data: ElementTree.Element) -> _Place:
        start, size = int(data.attrib["offset"]), int(data.attrib["size"])
        constant = content[start : start + size]
        name = self._names.get(_digest(constant))
        if name is not None:
            return _Place(name, 0)
        offset = len(self._others)
        self._others += constant.tobytes().ljust(-(-size // ALIGNMENT) * ALIGNMENT, b"\0")
        return _Place(ENGINE_CONSTANTS, offset)

    def others(self) -> Tensor:
        """What is in no tensor, as int64: safetensors puts the widest numbers first, aligned."""
        return torch.from_numpy(np.frombuffer(bytes(self._others), np.int64).copy())


def _starts(weights: Path) -> dict[str, int]:
    """Position of each tensor in a safetensors file, in bytes."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _bytes(tensor: Tensor) -> Bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy()


def _view(array: npt.NDArray[np.float32]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _digest(content: Bytes) -> bytes:
    return hashlib.blake2b(content.data, digest_size=32).digest()

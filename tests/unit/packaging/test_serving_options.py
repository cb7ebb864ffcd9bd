import msgspec
import pytest
from clip_deepfake.card import Card, Limits
from deepfake_tools.packaging.architectures import Architecture, settings_of
from deepfake_tools.packaging.encoders import make_tower
from deepfake_tools.packaging.serving_options import DECODING, response_timeout_s

from tests.unit.towers import published


def operations(name: str, layers: int) -> int:
    model = published(name, layers)
    architecture = Architecture(
        type(model).__name__, settings_of(model.config), model.config.image_size
    )
    return make_tower(architecture, model.state_dict(), "0" * 64, "a file").config.operations


@pytest.mark.parametrize(
    ("name", "layers", "billions"),
    [("openai/clip-vit-base-patch32", 12, 8.8), ("openai/clip-vit-large-patch14", 24, 162)],
)
def test_an_encoders_work_is_what_its_papers_tell(name: str, layers: int, billions: float) -> None:
    """4.4 and 81 billion multiplications with their additions, as open_clip has them."""
    one, two = (operations(name, number) for number in (1, 2))
    assert (one + (layers - 1) * (two - one)) / 1e9 == pytest.approx(billions, rel=0.02)


def limit_s(card: Card, batch_size: int = 8, **limits: int) -> int:
    changed = msgspec.structs.replace(card.limits, **limits)
    return response_timeout_s(msgspec.structs.replace(card, limits=changed), batch_size)


def test_a_worker_that_only_decodes_is_not_taken_for_hung(small_card: Card) -> None:
    """The small encoder's own work is next to nothing."""
    for pixels in (400_000_000, 800_000_000, 1_600_000_000):
        found = limit_s(small_card, max_batch_pixels=pixels)
        assert pixels / DECODING <= found <= pixels / DECODING + 1


def test_the_largest_image_of_each_request_counts_whatever_the_budget(small_card: Card) -> None:
    found = limit_s(small_card, batch_size=64, max_batch_pixels=1)
    assert found == pytest.approx(64 * small_card.limits.max_pixels / DECODING, abs=1)


def test_decoding_comes_on_top_of_the_encoders_work(small_card: Card) -> None:
    encoder = msgspec.structs.replace(small_card.encoder, operations=162_000_000_000)
    card = msgspec.structs.replace(small_card, encoder=encoder)
    without = limit_s(card, max_batch_pixels=1, max_pixels=1)
    assert limit_s(card) == pytest.approx(without + 800_000_000 / DECODING, abs=1)


def test_no_limit_is_below_ten_seconds(small_card: Card) -> None:
    assert limit_s(small_card, max_batch_pixels=1, max_pixels=1) == 10


@pytest.mark.parametrize(
    ("max_pixels", "request_pixels", "batch_pixels"),
    [
        (1, 200_000_000, 800_000_000),
        (50_000_000, 200_000_000, 800_000_000),
        (100_000_000, 400_000_000, 1_600_000_000),
    ],
)
def test_budgets_grow_with_the_largest_image(
    max_pixels: int, request_pixels: int, batch_pixels: int
) -> None:
    found = Limits.of_images(max_pixels)
    assert found == Limits(max_pixels, 32, request_pixels, batch_pixels)

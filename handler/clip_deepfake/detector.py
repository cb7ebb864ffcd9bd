"""Image bytes in, verdicts out."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import numpy as np

from clip_deepfake.budget import Room
from clip_deepfake.card import Card
from clip_deepfake.engines import Engine, Pixels, run_pass
from clip_deepfake.errors import (
    DetectorError,
    EngineLostError,
    InternalError,
    NoFaceError,
)
from clip_deepfake.faces import Aligner, Faces
from clip_deepfake.images import RGB, checked_size, decode
from clip_deepfake.metrics import Stopwatch, Timings
from clip_deepfake.system import available_cores
from clip_deepfake.verdicts import Judgement, Verdict, form_judgement, form_verdict

logger = logging.getLogger(__name__)

UNPREPARED = InternalError("the image could not be prepared; the server's log says why")

ImageBytes = bytes | bytearray


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the engine.

    Attributes:
        pixels: uint8 (side, side, 3) for each face to be judged, or for the whole image.
        faces: what was found; None where the card aligns no faces.
    """

    pixels: tuple[Pixels, ...]
    faces: Faces | None = None


@dataclass(frozen=True)
class Examined:
    """A batch's images after their examination.

    Attributes:
        results: a verdict or the reason for its absence for each, in order.
        timings: what the examination took.
    """

    results: tuple[Verdict | DetectorError, ...]
    timings: Timings


class Detector:
    """A card, its preprocessing and an engine, and an aligner where the card wants faces."""

    def __init__(
        self,
        card: Card,
        engine: Engine,
        aligner: Aligner | None = None,
        threads: int | None = None,
    ) -> None:
        """Puts the parts in a row; ``load_detector`` makes them from an unpacked archive.

        Args:
            card: of the detector.
            engine: computes its logits.
            aligner: finds faces, where the card wants them.
            threads: that prepare images; None takes every core that this process may use.
        """
        self.card = card
        self.engine = engine
        self._aligner = aligner
        threads = threads or available_cores()
        self._room = Room(card.limits.max_pixels, threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="preprocess")

    def judge(self, images: Sequence[ImageBytes]) -> list[Verdict | DetectorError]:
        """Judges images; a broken one does not touch the others.

        Args:
            images: contents of image files.

        Returns:
            A verdict or the reason for its absence for each, in order.
        """
        return list(self.examine(images).results)

    def examine(self, images: Sequence[ImageBytes]) -> Examined:
        """Judges images, and says what that took.

        Args:
            images: contents of image files.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        watches = [Stopwatch() for _ in images]
        engine_watch = Stopwatch()
        prepared: list[Prepared | DetectorError] = []

        def pictures() -> Iterator[Pixels]:
            # As they come: a full pass is computed while the images behind it are prepared.
            for item in self._pool.map(self._prepare, images, watches):
                prepared.append(item)
                if isinstance(item, Prepared):
                    yield from item.pixels

        judgements = iter(list(self._judge_pixels(pictures(), engine_watch)))
        results = tuple(
            self._verdict(item, judgements) if isinstance(item, Prepared) else item
            for item in prepared
        )
        return Examined(results, Stopwatch.total([*watches, engine_watch]))

    def measure(self, images: Sequence[ImageBytes]) -> list[int | DetectorError]:
        """Reads what images will cost from their headers.

        Args:
            images: contents of image files.

        Returns:
            The pixels that are made of each, or the reason for which none will be, in order.
        """
        return list(self._pool.map(self._measure, images))

    def _measure(self, data: ImageBytes) -> int | DetectorError:
        try:
            size = checked_size(data, self.card.limits.max_pixels)
        except DetectorError as error:
            return error
        except Exception:
            logger.exception("an image of %d bytes could not be measured", len(data))
            return UNPREPARED
        return max(size.work, self.card.preprocessing.most_pixels(size.width, size.height))

    def prepare(self, images: Sequence[ImageBytes]) -> list[Prepared | DetectorError]:
        """Decodes, aligns and preprocesses images, several at a time.

        Args:
            images: contents of image files.

        Returns:
            What the engine takes, or the reason for its absence, for each in order.
        """
        return list(self._pool.map(self._prepare, images, [Stopwatch() for _ in images]))

    def _prepare(self, data: ImageBytes, watch: Stopwatch) -> Prepared | DetectorError:
        try:
            limit = self.card.limits.max_pixels
            with ExitStack() as room:
                with watch.timing("decode"):
                    size = checked_size(data, limit)
                    room.enter_context(self._room.holding(size.width * size.height))
                    image = decode(data, limit, self.card.preprocessing.orientation)
                return self._prepare_image(image, watch)
        except DetectorError as error:
            return error
        except Exception:
            logger.exception("an image of %d bytes could not be prepared", len(data))
            return UNPREPARED

    def _prepare_image(self, image: RGB, watch: Stopwatch) -> Prepared:
        found = None
        if self._aligner is not None:
            with watch.timing("align"):
                found = self._aligner.find(image)
            if not found.judged and self.card.refuses_faceless:
                raise NoFaceError("no face was found, and only faces are judged")
        judged = [face.crop for face in found.judged] if found and found.judged else [image]
        with watch.timing("preprocess", len(judged)):
            pixels = tuple(self.card.preprocessing.apply(picture) for picture in judged)
        return Prepared(pixels, found)

    def _judge_pixels(
        self, pictures: Iterable[Pixels], watch: Stopwatch
    ) -> Iterator[Judgement | DetectorError]:
        waiting = iter(pictures)
        while some := list(islice(waiting, self.engine.largest_pass)):
            with watch.timing("engine", len(some)):
                judged = self._judge_batch(some)
            yield from judged

    def _judge_batch(self, pixels: Sequence[Pixels]) -> Sequence[Judgement | DetectorError]:
        try:
            logits = run_pass(self.engine, np.stack(pixels))
        except EngineLostError:
            raise
        except Exception:
            logger.exception("a pass over %d images failed", len(pixels))
            failure = InternalError("the model could not be run; the server's log says why")
            return [failure] * len(pixels)
        return [form_judgement(row, self.card.head) for row in logits]

    def _verdict(
        self, prepared: Prepared, judgements: Iterator[Judgement | DetectorError]
    ) -> Verdict | DetectorError:
        """Takes as many judgements as the image has pictures."""
        own = list(islice(judgements, len(prepared.pixels)))
        try:
            return form_verdict(own, prepared.faces, all_faces=self.card.judges_all_faces)
        except Exception:
            logger.exception("no verdict could be formed of %s", own)
            return InternalError("the verdict could not be formed; the server's log says why")

"""Judges images: decoded and preprocessed side by side, passed through an engine, and read."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from clip_deepfake.card import HeadCard
from clip_deepfake.decision import Decision
from clip_deepfake.engines import Engine, Pixels, run_pass
from clip_deepfake.errors import (
    DetectorError,
    EngineLostError,
    InternalError,
    NoFaceError,
    NotOfferedError,
)
from clip_deepfake.explaining import FAILED, Breakdown, Case, Explainer, Wish
from clip_deepfake.faces import Aligner, Faces
from clip_deepfake.formats import Bytes, Header
from clip_deepfake.images import RGB, Room, check_header, decode_behind
from clip_deepfake.metrics import Stopwatch, Timings
from clip_deepfake.overlay import draw
from clip_deepfake.preprocessing import Preprocessing
from clip_deepfake.system import available_cores
from clip_deepfake.verdicts import (
    Corner,
    Explanation,
    Judgement,
    Verdict,
    decided,
    form_judgement,
    form_verdict,
    speaking,
)

logger = logging.getLogger(__name__)

UNEXPECTED = InternalError("the request could not be answered; the server's log says why")
UNPREPARED = InternalError("the image could not be prepared; the server's log says why")


@dataclass(eq=False)
class Submission:
    """One image on its way from a request to a verdict; each step adds what it finds.

    Attributes:
        data: content of an image file.
        wish: how the verdict is to be explained; None where it is not.
        result: the verdict, or why there is none. Once it is there, no further step is taken.
        header: what the file says of itself.
        cost: the most pixels that are made of it; 0 until it is measured.
        size: width and height in pixels, as decoded.
        faces: what was found; None where none are looked for.
        pictures: uint8 (side, side, 3) for each face to be judged, or for the whole image.
        judgements: of each of these.
        watch: what the steps took, but for the engine's.
    """

    data: Bytes = b""
    wish: Wish | None = None
    result: Verdict | DetectorError | None = None
    header: Header | None = None
    cost: int = 0
    size: tuple[int, int] = (0, 0)
    faces: Faces | None = None
    pictures: tuple[Pixels, ...] = ()
    judgements: list[Judgement | DetectorError] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def outcome(self) -> Verdict | DetectorError:
        """The result; where a step was never taken, that something went wrong."""
        return self.result or UNEXPECTED


class Preparer:
    """Decodes, aligns and preprocesses images, several at a time."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        max_pixels: int,
        aligner: Aligner | None = None,
        threads: int | None = None,
    ) -> None:
        """Makes the threads.

        Args:
            preprocessing: how an image becomes what the encoder sees.
            max_pixels: of one image; larger ones are refused.
            aligner: finds faces, where these are judged.
            threads: that prepare images; None takes every core that this process may use.
        """
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._aligner = aligner
        threads = threads or available_cores()
        self._room = Room(max_pixels, threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="preprocess")

    @property
    def judges_all_faces(self) -> bool:
        """Whether each face of an image has a verdict of its own."""
        return self._aligner is not None and self._aligner.alignment.judged == "all"

    def measure(self, images: Iterable[Submission]) -> None:
        """Reads what images will cost from their headers."""
        list(self._pool.map(self._measure, images))

    def _measure(self, image: Submission) -> None:
        with _noting_faults(image, "measured"), image.watch.timing("decode", pictures=0):
            header = self._header(image)
            made = self._preprocessing.most_pixels(header.width, header.height)
            image.cost = max(header.cost, made)

    def _header(self, image: Submission) -> Header:
        if image.header is None:
            image.header = check_header(image.data, self._max_pixels)
        return image.header

    def prepare(self, images: Iterable[Submission]) -> Iterator[Submission]:
        """Makes an image's pictures, or finds out why there are none.

        Args:
            images: without a result.

        Returns:
            The same in their order, each as soon as it is ready, while those behind it are made.
        """
        return self._pool.map(self._prepare, images)

    def _prepare(self, image: Submission) -> Submission:
        with _noting_faults(image, "prepared"), ExitStack() as room:
            with image.watch.timing("decode"):
                header = self._header(image)
                room.enter_context(self._room.holding(header.pixels))
                decoded = decode_behind(header, image.data, self._preprocessing.orientation)
            image.size = decoded.shape[1], decoded.shape[0]
            judged = self._judged(image, decoded)
            with image.watch.timing("preprocess", len(judged)):
                image.pictures = tuple(map(self._preprocessing.apply, judged))
        return image

    def _judged(self, image: Submission, decoded: RGB) -> list[RGB]:
        """The faces that are judged, or the whole image."""
        if self._aligner is None:
            return [decoded]
        with image.watch.timing("align"):
            image.faces = self._aligner.find(decoded)
        if image.faces.judged:
            return [face.crop for face in image.faces.judged]
        if self._aligner.alignment.on_no_face == "error":
            raise NoFaceError("no face was found, and only faces are judged")
        return [decoded]

    def corners(self, image: Submission, index: int) -> tuple[Corner, ...]:
        """Where one of an image's pictures lies in it: its top left corner, then clockwise."""
        face = None
        if image.faces is not None and image.faces.judged:
            face = image.faces.judged[index]
        width, height = image.size if face is None else face.crop.shape[1::-1]
        left, top, right, bottom = self._preprocessing.window(width, height)
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
        if face is not None and self._aligner is not None:
            points = self._aligner.place(face, points)
        return tuple((round(float(x), 2), round(float(y), 2)) for x, y in points)


@contextmanager
def _noting_faults(image: Submission, step: str) -> Iterator[None]:
    """Makes what the block raises the image's result: a broken one does not touch the others."""
    try:
        yield
    except DetectorError as error:
        image.result = error
    except Exception:
        logger.exception("an image of %d bytes could not be %s", len(image.data), step)
        image.result = UNPREPARED


class Detector:
    """What prepares images, an engine, and how the head's logits are read.

    Attributes:
        preparer: makes what the engine takes.
        engine: computes the logits.
    """

    def __init__(
        self,
        preparer: Preparer,
        engine: Engine,
        head: HeadCard,
        decision: Decision | None = None,
        explainer: Explainer | None = None,
    ) -> None:
        """Puts the parts in a row; ``load_detector`` makes them from an unpacked archive.

        Args:
            preparer: makes what the engine takes.
            engine: computes the logits.
            head: says how these are read.
            decision: when an image is called fake; None without calibration.
            explainer: says what the logits are made of; None where nobody may ask.
        """
        self.preparer = preparer
        self.engine = engine
        self._explainer = explainer
        self._head = head
        self._decision = decision

    def judge(self, images: Iterable[Bytes]) -> list[Verdict | DetectorError]:
        """Judges images; a broken one does not touch the others.

        Args:
            images: contents of image files.

        Returns:
            A verdict or the reason for its absence for each, in order.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        submitted = [Submission(data) for data in images]
        self.examine(submitted)
        return [image.outcome for image in submitted]

    def examine(self, images: Sequence[Submission]) -> Timings:
        """Gives each image that has none its result, and says what that took.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        waiting = [image for image in images if image.result is None]
        watch = Stopwatch()
        # As they come: a full pass is computed while the images behind it are prepared.
        pictures = (
            (image, pixels) for image in self.preparer.prepare(waiting) for pixels in image.pictures
        )
        while some := list(islice(pictures, self.engine.largest_pass)):
            with watch.timing("engine", len(some)):
                judgements = self._judge_pass([pixels for _, pixels in some])
            for (image, _), judgement in zip(some, judgements, strict=True):
                image.judgements.append(judgement)
        for image in waiting:
            if image.result is None:
                image.result = self._verdict(image)
        if self._explainer is not None and any(image.wish is not None for image in waiting):
            with watch.timing("explain", sum(image.wish is not None for image in waiting)):
                self._explain(self._explainer, waiting)
        return Stopwatch.total([*(image.watch for image in images), watch])

    def _judge_pass(self, pixels: Sequence[Pixels]) -> Sequence[Judgement | DetectorError]:
        try:
            logits = run_pass(self.engine, np.stack(pixels))
        except EngineLostError:
            raise
        except Exception:
            logger.exception("a pass over %d images failed", len(pixels))
            failure = InternalError("the model could not be run; the server's log says why")
            return [failure] * len(pixels)
        return [form_judgement(row, self._head) for row in logits]

    def _verdict(self, image: Submission) -> Verdict | DetectorError:
        try:
            all_faces = self.preparer.judges_all_faces
            verdict = form_verdict(image.judgements, image.faces, all_faces=all_faces)
            return decided(verdict, self._decision)
        except Exception:
            logger.exception("no verdict could be formed of %s", image.judgements)
            return InternalError("the verdict could not be formed; the server's log says why")

    def refuse_wishes(self, images: Sequence[Submission]) -> None:
        """Refuses the explanations of a request that are not to be had, before any work."""
        asked = [image for image in images if image.wish is not None and image.result is None]
        if self._explainer is None:
            for image in asked:
                image.result = NotOfferedError("this detector does not explain its verdicts")
            return
        wishes = [image.wish for image in asked if image.wish is not None]
        for image, refusal in zip(asked, self._explainer.refusals(wishes), strict=True):
            image.result = refusal

    def _explain(self, explainer: Explainer, images: Sequence[Submission]) -> None:
        """Adds to verdicts what they are made of, where that was wished for."""
        asked, cases = list[tuple[Submission, int]](), list[Case]()
        for image in images:
            if image.wish is not None and isinstance(image.result, Verdict):
                # Each of them is one, or there were no verdict.
                sure = [found for found in image.judgements if isinstance(found, Judgement)]
                index = speaking(sure)
                asked.append((image, index))
                cases.append(Case(image.wish, image.pictures[index], image.result))
        for (image, index), case, parts in zip(asked, cases, explainer.explain(cases), strict=True):
            image.result = self._explained(image, index, case, parts)

    def _explained(
        self, image: Submission, index: int, case: Case, parts: Breakdown | DetectorError
    ) -> Verdict | DetectorError:
        if isinstance(parts, DetectorError):
            return parts
        try:
            explanation = Explanation(
                **vars(parts),
                margin=case.verdict.margin,
                corners=self.preparer.corners(image, index),
                overlay=draw(case.pixels, parts.grid) if case.wish.overlay else None,
            )
            return replace(case.verdict, explanation=explanation)
        except Exception:
            logger.exception("no explanation could be formed of %s", parts)
            return FAILED

"""What can go wrong, as exceptions that know the code and the HTTP status of their answer."""

from collections.abc import Sequence
from http import HTTPStatus


class DetectorError(Exception):
    """A fault in one image or one request.

    Attributes:
        code: machine-readable name, stable across releases.
        status: HTTP status of the answer when this is the whole answer.
    """

    code = "internal_error"
    status = 500


class InternalError(DetectorError):
    """The detector failed on input that should have worked."""


class ImageError(DetectorError):
    """The bytes cannot be judged as an image."""

    code = "not_an_image"
    status = 400


class EmptyImageError(ImageError):
    """There are no bytes, or an image without pixels."""

    code = "empty_image"


class TruncatedImageError(ImageError):
    """The header is that of an image, but its pixels are missing or damaged."""

    code = "truncated_image"


class UnsupportedImageError(ImageError):
    """A whole file, of a kind of its format that is not decoded."""

    code = "unsupported_image"


class ImageTooLargeError(ImageError):
    """More pixels than the limit on the card."""

    code = "image_too_large"
    status = 413


class NoFaceError(ImageError):
    """No face in the image, and a detector that judges faces alone."""

    code = "no_face"
    status = 422


class RequestError(DetectorError):
    """A request of another shape than the documented ones."""

    code = "unsupported_json"
    status = 400


class InvalidBase64Error(RequestError):
    """An instance whose ``b64`` field is not base64."""

    code = "invalid_base64"


class TooManyImagesError(RequestError):
    """More images in one request than a worker takes at once."""

    code = "too_many_images"
    status = 413


class UnknownOptionError(RequestError):
    """An explanation that is asked for in a way that does not exist."""

    code = "unknown_option"


class LostPartsError(RequestError):
    """A form of which the server has handed on a part only."""

    code = "lost_parts"


class NotOfferedError(RequestError):
    """A way of explaining that the archive does not have."""

    code = "not_implemented"
    status = 501


class HeaderError(Exception):
    """A header of a known format in a file that cannot be decoded, or that must not be."""


class LoadError(Exception):
    """An archive that must not serve: damaged, incompatible, or not what its card says."""


class EngineMemoryError(Exception):
    """A pass that does not fit the device's memory; a smaller one may."""


class EngineLostError(Exception):
    """A device that answers nothing more to this process; a new process may reach it."""


def check_count(images: int, most: int) -> None:
    """Makes sure that a request holds no more images than it may.

    Raises:
        TooManyImagesError: it does.
    """
    if images > most:
        raise TooManyImagesError(
            f"more than {most} images in one request, which is the limit; send several"
        )


def answer_status(results: Sequence[object]) -> int:
    """The HTTP status of an answer: an error's only when no image has a verdict.

    Args:
        results: one for each image, a DetectorError where it has none.
    """
    errors = [result.status for result in results if isinstance(result, DetectorError)]
    if len(errors) < len(results):
        return HTTPStatus.OK
    return errors[0] if len(set(errors)) == 1 else HTTPStatus.BAD_REQUEST

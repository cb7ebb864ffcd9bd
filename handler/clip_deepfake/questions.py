"""A row of a server's batch and its headers in, the same without the server's own types out."""

from collections.abc import Mapping
from dataclasses import dataclass

from clip_deepfake.forms import Form, read_form


@dataclass(frozen=True)
class Question:
    """One request, as the server received it.

    Attributes:
        parts: its body, or its fields, by name; bytes, whatever their type.
        id: the server's name for it.
        form: that the parts arrived in; None where the body was none.
        describe: whether the worker is asked about itself.
        explain: whether an explanation is asked for.
        kserve: whether it came by KServe's v1 path.
    """

    parts: Mapping[str, bytes | bytearray]
    id: str | None = None
    form: Form | None = None
    describe: bool = False
    explain: bool = False
    kserve: bool = False


def read_question(
    parts: Mapping[str, bytes | bytearray], headers: Mapping[str, object], id: str | None = None
) -> Question:
    """Tells by TorchServe's headers what is asked for.

    To those of the client TorchServe adds its own: ``explain`` by every path but the oldest,
    ``url_path`` by all of these but KServe's, ``describe`` where its management API is asked about
    a worker. A client may send each of them as well, and then TorchServe's stands.

    Args:
        parts: the request's body, or its fields.
        headers: of the request; of a part that has a name of its own, what is known of it.
        id: TorchServe's name for the request.
    """
    told = {name: value for name, value in headers.items() if isinstance(value, str)}
    by_lower = {name.lower(): value for name, value in told.items()}
    return Question(
        parts,
        id=id,
        form=read_form(by_lower),
        # The management API's question has no body, not even an empty one; a client's would need a
        # form without parts, by one of the oldest paths.
        describe=told.get("describe") == "True"
        and not parts
        and "explain" not in told
        and "content-type" not in by_lower,
        explain=told.get("explain") == "True",
        kserve="explain" in told and "url_path" not in told,
    )

"""The page's parts and what each does; a thin layer over an inquiry and how it is shown."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio import processing_utils
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deepfake_tools.client.diagnosis import ready_models
from deepfake_tools.client.target import Target
from deepfake_tools.errors import ServiceError
from deepfake_tools.page.access import opens
from deepfake_tools.page.inquiry import Inquiry, Tell, ask, explain, to_fields
from deepfake_tools.page.showing import findings_page
from deepfake_tools.page.uploads import LARGEST_FILE, Desk, Gate, UploadError

ASKING_AT_A_TIME = 4
WAITING = 32
OPACITY = 0.6
LOCAL_NAMES = ("127.0.0.1", "localhost")
"""By which this machine calls itself; another name that leads here is somebody's trick."""

INTRODUCTION = """# Deepfake detectors
A verdict is what a detector thinks, and no proof. Files are kept until you ask about others, clear
them or close the page."""

CHOOSE = """element.addEventListener('click', event => {
  const frame = event.target.closest('[data-place]');
  if (frame) trigger('select', {index: Number(frame.dataset.place), value: ''});
});"""

FADE = "opacity => { document.documentElement.style.setProperty('--heat-opacity', opacity); }"

State = Inquiry | None
Shown = tuple[State, str, str]
"""The inquiry, what is shown of it, and the same as JSON."""


class Page:
    """What the page's parts call; one for everybody, each person's inquiry is in their session.

    Args:
        target: The server, and how insistently it is asked; which model makes no difference.
        desk: Holds the uploads.
        examples: Photographs to try, by name.
    """

    def __init__(self, target: Target, desk: Desk, examples: Mapping[str, Path]) -> None:
        self._target, self._desk, self._examples = target, desk, examples

    def models(self, chosen: str | None) -> object:
        """Returns the choice of models as it is now; a message where nobody says."""
        try:
            ready = ready_models(self._target)
        except ServiceError as error:
            gr.Warning(str(error), title="The models are not known")
            ready = []
        if not ready:
            return gr.Dropdown(choices=[], value=None, info="no model is ready: look again later")
        value = chosen if chosen in ready else ready[0]
        return gr.Dropdown(choices=ready, value=value, info="models that take requests now")

    def upload(
        self,
        uploaded: list[str],
        model: str | None,
        mapped: bool,
        stability: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it in
    ) -> tuple[None, *Shown]:
        """Takes files, and asks about them."""
        try:
            files = self._desk.take(_owner(request), uploaded)
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return None, *self._ask(files, model, mapped, stability, progress)

    def example(
        self,
        name: str,
        model: str | None,
        mapped: bool,
        stability: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        """Asks about a photograph of the project's."""
        files = self._desk.copy(_owner(request), self._examples[name])
        return self._ask(files, model, mapped, stability, progress)

    def again(
        self,
        inquiry: State,
        model: str | None,
        mapped: bool,
        stability: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        """Asks about the same files, be it another model or after a server's restart."""
        if inquiry is None:
            raise gr.Error("Choose files first.", print_exception=False)
        return self._ask(inquiry.files, model, mapped, stability, progress)

    def steady(
        self,
        inquiry: State,
        model: str | None,
        mapped: bool,
        stability: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        """Asks about changed copies too, if that is wanted and was not done."""
        if inquiry is None or not stability or inquiry.variants > 1:
            return shown(inquiry)
        return self.again(inquiry, inquiry.target.model, mapped, stability, progress)

    def map(
        self,
        inquiry: State,
        mapped: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        """Asks what the verdicts are made of, if that is wanted."""
        if inquiry is not None and mapped:
            explain(inquiry, _teller(progress, "explained"))
        elif inquiry is not None:
            inquiry.explained.clear()
            inquiry.unexplained.clear()
        return shown(inquiry)

    def frame(self, inquiry: State, mapped: bool, event: gr.SelectData) -> Shown:
        """Shows another frame of a video."""
        if inquiry is not None and isinstance(event.index, int):
            inquiry.look_at(event.index)
            if mapped:
                explain(inquiry, lambda done, places: None)
        return shown(inquiry)

    def clear(self, request: gr.Request) -> Shown:
        """Deletes a person's files, and what came of them."""
        self._desk.clear(_owner(request))
        return shown(None)

    def leave(self, request: gr.Request) -> None:
        """Deletes the files of somebody who has closed the page."""
        self._desk.clear(_owner(request))

    def _ask(
        self,
        files: list[Path],
        model: str | None,
        mapped: bool,
        stability: bool,
        progress: gr.Progress,
    ) -> Shown:
        if model is None:
            raise gr.Error(
                "No model is chosen: choose one, or look again for those that are ready.",
                print_exception=False,
            )
        target = replace(self._target, model=model)
        try:
            inquiry = ask(target, files, _teller(progress, "asked"), stability=stability)
            if mapped:
                explain(inquiry, _teller(progress, "explained"))
        except ServiceError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return shown(inquiry)


def shown(inquiry: State) -> Shown:
    """Returns an inquiry, what is shown of it, and the same as JSON."""
    if inquiry is None:
        return None, "", ""
    return inquiry, findings_page(inquiry), json.dumps(to_fields(inquiry), indent=1)


def build(page: Page, examples: Mapping[str, Path]) -> gr.Blocks:
    """Puts the page together.

    Args:
        page: What its parts call.
        examples: Names of photographs to try.
    """
    blocks = gr.Blocks(title="Deepfake detectors", analytics_enabled=False, delete_cache=(60, 600))
    with blocks:
        inquiry = gr.State(None)
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column():
                model = gr.Dropdown(
                    label="Model", choices=[], interactive=True, elem_id="model", filterable=False
                )
                refresh = gr.Button("Look for models again", size="sm", elem_id="refresh")
                mapped = gr.Checkbox(label="Heat map: what the verdict is made of", elem_id="map")
                stability = gr.Checkbox(
                    label="Stability: ask about changed copies too", elem_id="stability"
                )
                opacity = gr.Slider(
                    0, 1, OPACITY, step=0.05, label="Opacity of the heat map", elem_id="opacity"
                )
            with gr.Column():
                files = gr.File(
                    label="Images or a video", file_count="multiple", height=180, elem_id="files"
                )
                with gr.Row():
                    buttons = [gr.Button(n, size="sm", min_width=80) for n in examples]
        with gr.Row():
            again = gr.Button("Ask again", variant="primary", elem_id="again")
            clear = gr.Button("Clear", elem_id="clear")
        findings = gr.HTML(js_on_load=CHOOSE, elem_id="findings")
        with gr.Accordion("JSON", open=False, elem_id="json"):
            code = gr.Code(language="json", interactive=False, max_lines=30)

        wishes = [model, mapped, stability]
        results = [inquiry, findings, code]
        blocks.load(page.models, model, model, api_visibility="private")
        refresh.click(page.models, model, model, api_visibility="private")
        files.upload(page.upload, [files, *wishes], [files, *results], api_visibility="private")
        for button in buttons:
            button.click(page.example, [button, *wishes], results, api_visibility="private")
        again.click(page.again, [inquiry, *wishes], results, api_visibility="private")
        clear.click(page.clear, None, results, api_visibility="private")
        mapped.input(page.map, [inquiry, mapped], results, api_visibility="private")
        stability.input(page.steady, [inquiry, *wishes], results, api_visibility="private")
        findings.select(page.frame, [inquiry, mapped], results, api_visibility="private")
        opacity.input(None, opacity, None, js=FADE, api_visibility="private")
        blocks.unload(page.leave)
    blocks.queue(max_size=WAITING, default_concurrency_limit=ASKING_AT_A_TIME)
    return blocks


def fetch_nothing() -> None:
    """Lets Gradio take uploads alone: it fetches an address that a client sends in their place."""

    async def refuse(url: str, cache_dir: str) -> str:
        raise gr.Error("Files are uploaded; an address is not fetched.", print_exception=False)

    processing_utils.async_ssrf_protected_download = refuse


def launch(
    blocks: gr.Blocks, desk: Desk, host: str, port: int, accounts: Mapping[str, str] | None
) -> str:
    """Shows the page until `blocks.close()`.

    Returns:
        Its address.
    """
    fetch_nothing()
    gates = [Middleware(Gate, desk=desk)]
    if host in LOCAL_NAMES:
        gates.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_NAMES)))
    theme = gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        auth=None if accounts is None else lambda user, word: opens(accounts, user, word),
        max_file_size=LARGEST_FILE,
        theme=theme,
        css_paths=Path(__file__).with_name("page.css"),
        app_kwargs={"middleware": gates, "openapi_url": None},
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return address


def _owner(request: gr.Request) -> str:
    return str(request.session_hash)


def _teller(progress: gr.Progress, what: str) -> Tell:
    def tell(done: int, places: int) -> None:
        progress((done, places), desc=what, unit="images")

    return tell

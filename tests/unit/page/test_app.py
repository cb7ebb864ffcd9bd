"""What Gradio would do by itself, and this page does not."""

import asyncio

import gradio as gr
import pytest
from deepfake_tools.page.app import fetch_nothing
from gradio import processing_utils


def test_an_address_in_the_place_of_an_upload_is_not_fetched(monkeypatch: pytest.MonkeyPatch):
    # Put back afterwards.
    own = processing_utils.async_ssrf_protected_download
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", own)
    fetch_nothing()
    with gr.Blocks():
        files = gr.File()
    with pytest.raises(gr.Error, match="not fetched"):
        asyncio.run(files.async_move_resource_to_block_cache("https://93.184.216.34/a.png"))

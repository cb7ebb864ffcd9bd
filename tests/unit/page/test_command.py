"""page.py's command line."""

import socket

import page
import pytest


def test_a_port_that_is_taken_is_a_wrong_argument_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("sys.argv", ["page.py", "--listen", listen])
        with pytest.raises(SystemExit) as ended:
            page.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith(f" --listen {listen}: Address already in use: give another address\n")

"""`dgpo report RUN --serve`: who is answered, with what, and how it ends."""

import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dgpo.credit_log import CreditLog
from dgpo.errors import ConfigError, DataError
from dgpo.lab.cli.main import main
from dgpo.lab.report.serve import LivePage, make_server, serve


@pytest.fixture
def run(tmp_path, settings, completion):
    folder = tmp_path / "run"
    CreditLog(folder, settings).write(1, [completion("a", "<b>")])
    (folder / "secret.txt").write_text("a secret")
    return folder


@pytest.fixture
def server(run):
    with make_server(LivePage([run]), 0) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def ask(server):
    def ask(path="/", method="GET", host=None, **headers):
        connection = http.client.HTTPConnection(*server.server_address, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        for value in [f"127.0.0.1:{server.server_address[1]}"] if host is None else host:
            connection.putheader("Host", value)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    return ask


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_may_ask_its_server_and_nobody_else(ask):
    answer, body = ask()
    policy = body.decode().split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.endswith("connect-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "host", [["localhost"], ["localhost:9"], ["127.0.0.1"], ["[::1]:80"], ["LOCALHOST:1"]], ids=str
)
def test_names_of_this_machine_are_answered_at_any_port(ask, host):
    """A tunnel has another port here than there."""
    assert ask(host=host)[0].status == 200


OTHERS = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil@127.0.0.2", "", "[", "0.0.0.0"]


@pytest.mark.parametrize("path", ["/", "/data"])
@pytest.mark.parametrize("host", [*([name] for name in OTHERS), [], ["localhost", "evil.example"]], ids=str)
def test_other_names_are_refused(ask, path, host):
    """A page of somebody else's, whose name has come to mean 127.0.0.1, would read the run otherwise."""
    answer, body = ask(path, host=host)
    assert answer.status == 421
    assert body == b"Open this page by the address that dgpo printed.\n"


FILES = [
    "/secret.txt",
    "/../run/secret.txt",
    "/%2e%2e/secret.txt",
    "//secret.txt",
    "/credit/step-000001.jsonl.gz",
    "/data/",
]


@pytest.mark.parametrize("path", FILES)
def test_no_file_is_given_out(ask, path):
    answer, body = ask(path)
    assert answer.status == 404
    assert b"secret" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_can_only_be_read(ask, method):
    assert ask(method=method)[0].status == 501


def test_data_are_sent_when_they_are_new(ask, run, settings, completion):
    answer, body = ask("/data")
    data, tag = json.loads(body), answer.headers["ETag"]
    assert [step["step"] for step in data["runs"][0]["credit"]] == [1]
    assert data["live"] == {"seconds": 2.0, "tag": tag}
    again, nothing = ask("/data", If_None_Match=tag)
    assert (again.status, nothing) == (304, b"")
    CreditLog(run, settings).write(20, [completion("c")])
    for _ in range(200):  # not more often than a tenth of the time may be spent on it
        newer, body = ask("/data", If_None_Match=tag, Accept_Encoding="gzip")
        if newer.status == 200:
            break
    data = json.loads(gzip.decompress(body) if newer.headers["Content-Encoding"] == "gzip" else body)
    assert [step["step"] for step in data["runs"][0]["credit"]] == [1, 20]
    assert ask("/data", method="HEAD")[1] == b""


def test_what_was_read_stays_when_a_run_is_deleted_or_unreadable(run, capsys):
    page = LivePage([run])
    before = page.data()
    for path in (run / "credit").iterdir():
        path.write_bytes(gzip.compress(b'{"schema": "dgpo-credit/99"}'))
    page._rest_until = 0.0
    assert page.data() == before
    assert "has the schema 'dgpo-credit/99'" in capsys.readouterr().err
    shutil.rmtree(run)
    page._rest_until = 0.0
    assert page.data() == before


def test_a_run_that_has_logged_nothing_is_waited_for(tmp_path, settings, completion):
    page = LivePage([tmp_path])
    assert "Nothing is logged yet" in page.page().decode()
    CreditLog(tmp_path, settings).write(1, [completion("a")])
    page._rest_until = 0.0
    assert "Nothing is logged yet" not in page.page().decode()


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} cannot be used .*--port"):
            serve([run], port=port)


def test_the_usual_port_that_is_taken_is_no_fault(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr("dgpo.lab.report.serve.PORT", other.getsockname()[1])
        with make_server(LivePage([run])) as made:
            assert made.server_address[1] not in (0, other.getsockname()[1])


def test_a_directory_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="there is no such directory"):
        serve([Path("/nowhere")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--serve"], "needs the directory of a run"),
        (["/nowhere", "--serve"], "/nowhere: there is no such directory"),
        ([".", "--port", "80"], "--port needs a number from 0 to 65535, and --serve"),
        ([".", "--serve", "--port", "99999"], "--port needs a number from 0 to 65535, and --serve"),
        ([".", "--serve", "--terminal"], "--serve and --terminal do not go together"),
        ([".", "--serve", "-o", "x.html"], "--serve and --output do not go together"),
        ([".", "--terminal", "--open"], "--terminal and --open do not go together"),
    ],
)
def test_bad_input_gets_one_line(words, message, capsys):
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_page_is_opened_in_the_browser(run, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or False)
    assert main(["report", str(run), "--open"]) == 0
    assert opened == [(run / "report.html").as_uri()]
    assert f"open {opened[0]} yourself" in capsys.readouterr().out


def test_ctrl_c_ends_it(run):
    """And the browser is opened at its address, once it listens."""
    code = """
import sys, webbrowser
from urllib.request import urlopen
from dgpo.lab.cli.main import main

webbrowser.open = lambda address: print(urlopen(address).status, flush=True) or True
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "report", str(run), "--serve", "--port", "0", "--open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    first, second = (process.stdout.readline() for _ in range(2))
    assert first.startswith("http://127.0.0.1:")
    assert second == "200\n"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (0, "Stopped.\n", "")

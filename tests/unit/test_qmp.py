"""QMP over a real socket: what QEMU may say, and what happens where it says nothing."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError
from _qemulab_vm_qmp import QmpSilent

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}\r\n'
EVENT = (
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "NIC_RX_FILTER_CHANGED", '
    b'"data": {"name": "nic0"}}\r\n'
)
DEADLINE = 0.2

Talk = Callable[["Peer"], None]


class Peer:
    """The other end of one connection, spoken to in bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stream = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)

    def command(self) -> dict[str, Any]:
        """Read the next command."""
        line = self.stream.readline()
        assert line.endswith(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def answer(self, value: Any = None) -> dict[str, Any]:
        """Read a command and return a value for it."""
        asked = self.command()
        self.reply(asked, {} if value is None else value)
        return asked

    def reply(self, asked: dict[str, Any], value: Any) -> None:
        """Return a value for a command."""
        self.send(json.dumps({"return": value, "id": asked["id"]}).encode() + b"\r\n")

    def greet(self) -> None:
        """Do what QEMU does first: greet, and take the capabilities."""
        self.send(GREETING)
        assert self.answer()["execute"] == "qmp_capabilities"


class Server:
    """A listener that has one talk with each client, and keeps what went wrong in it."""

    def __init__(self, path: Path, talk: Talk) -> None:
        self.path = path
        self.talk = talk
        self.failed: list[BaseException] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Take clients one after the other, as QEMU does, until the listener goes."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                peer = Peer(connection)
                try:
                    self.talk(peer)
                    peer.stream.read()  # until the client leaves
                except ConnectionError:
                    pass
                except BaseException as err:  # shown by stop()
                    self.failed.append(err)
                peer.stream.close()

    def stop(self) -> None:
        """End it, and raise what went wrong in a talk."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        assert not self.thread.is_alive()
        assert not self.failed


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Talk], Path]]:
    """Return a function that starts a server with a talk and returns its socket."""
    servers = []

    def start(talk: Talk) -> Path:
        server = Server(tmp_path / "qmp.sock", talk)
        servers.append(server)
        return server.path

    yield start
    for server in servers:
        server.stop()


def elapsed(act: Callable[[], Any], error: type[QmpError]) -> tuple[float, str]:
    """Return how long it takes until an error of exactly this kind is raised, and its text."""
    began = time.monotonic()
    with pytest.raises(QmpError) as caught:
        act()
    assert type(caught.value) is error
    return time.monotonic() - began, str(caught.value)


# What QEMU says


def test_a_command_is_answered_after_the_greeting(serve: Callable[[Talk], Path]) -> None:
    """Commands are numbered; arguments go along only where there are any."""
    asked: list[dict[str, Any]] = []

    def talk(peer: Peer) -> None:
        peer.greet()
        for value in ({"status": "running"}, {}):
            asked.append(peer.command())
            peer.reply(asked[-1], value)

    with Qmp(serve(talk)) as qmp:
        assert qmp.execute("query-status") == {"status": "running"}
        assert qmp.execute("eject", {"id": "cdrom"}) == {}
    assert asked == [
        {"execute": "query-status", "id": 2},
        {"execute": "eject", "id": 3, "arguments": {"id": "cdrom"}},
    ]


def test_queries_are_all_sent_before_the_first_answer(serve: Callable[[Talk], Path]) -> None:
    """The server here answers nothing until it has them all."""

    def talk(peer: Peer) -> None:
        peer.send(GREETING)
        peer.answer()
        first, second = peer.command(), peer.command()
        assert (first["execute"], second["execute"]) == ("query-uuid", "query-status")
        for asked, answer in ((first, 1), (second, 2)):
            peer.send(b'{"return": %d, "id": %d}\r\n' % (answer, asked["id"]))

    with Qmp(serve(talk)) as qmp:
        assert qmp.query("query-uuid", "query-status", timeout=5) == [1, 2]


def test_events_between_are_kept_aside(serve: Callable[[Talk], Path]) -> None:
    """Before the greeting's answer, before a command's, and two in one packet."""

    def talk(peer: Peer) -> None:
        peer.send(GREETING + EVENT)
        peer.answer()
        asked = peer.command()
        peer.send(EVENT + EVENT + b'{"return": 1, "id": %d}\r\n' % asked["id"])

    with Qmp(serve(talk)) as qmp:
        assert qmp.execute("query") == 1
        assert [event["event"] for event in qmp.events] == ["NIC_RX_FILTER_CHANGED"] * 3


def test_an_answer_in_pieces_is_put_together(serve: Callable[[Talk], Path]) -> None:
    """A stream has no packets."""

    def talk(peer: Peer) -> None:
        peer.greet()
        reply = b'{"return": "%s", "id": %d}\r\n' % (b"x" * 200_000, peer.command()["id"])
        for start in range(0, len(reply), 70_001):
            peer.send(reply[start : start + 70_001])

    with Qmp(serve(talk)) as qmp:
        assert qmp.execute("query") == "x" * 200_000


def test_an_answer_to_somebody_else_is_passed_over(serve: Callable[[Talk], Path]) -> None:
    """Such as a late one to a command that was given up."""

    def talk(peer: Peer) -> None:
        peer.greet()
        asked = peer.command()
        peer.send(b'{"return": "late", "id": 1}\r\n{"return": "late"}\r\n')
        peer.send(b'{"return": "mine", "id": %d}\r\n' % asked["id"])

    with Qmp(serve(talk)) as qmp:
        assert qmp.execute("query") == "mine"


def test_a_refusal_has_qemus_own_words(serve: Callable[[Talk], Path]) -> None:
    """And the connection is good for the next command."""

    def talk(peer: Peer) -> None:
        peer.greet()
        asked = peer.command()
        reply = {"error": {"class": "GenericError", "desc": "No disc"}, "id": asked["id"]}
        peer.send(json.dumps(reply).encode() + b"\r\n")
        peer.answer()

    with Qmp(serve(talk)) as qmp:
        _, text = elapsed(lambda: qmp.execute("eject"), QmpError)
        assert text == "eject: No disc"
        assert qmp.execute("query-status") == {}


def test_a_descriptor_is_handed_over_with_its_command(
    serve: Callable[[Talk], Path], tmp_path: Path
) -> None:
    """As ``add-fd`` needs it."""
    received = []

    def talk(peer: Peer) -> None:
        peer.greet()
        data, control, _, _ = peer.connection.recvmsg(4096, socket.CMSG_SPACE(4))
        descriptor = array.array("i", control[0][2])[0]
        received.append(os.pread(descriptor, 100, 0))
        os.close(descriptor)
        peer.send(b'{"return": {"fd": 1}, "id": %d}\r\n' % json.loads(data)["id"])

    (tmp_path / "disc").write_bytes(b"its bytes")
    with open(tmp_path / "disc", "rb") as disc, Qmp(serve(talk)) as qmp:
        assert qmp.execute("add-fd", descriptor=disc.fileno()) == {"fd": 1}
    assert received == [b"its bytes"]


def test_the_next_client_is_let_in_behind_the_first(serve: Callable[[Talk], Path]) -> None:
    """QEMU serves one at a time."""
    path = serve(lambda peer: (peer.greet(), peer.answer("x"))[0])
    for _ in range(3):
        with Qmp(path) as qmp:
            assert qmp.execute("query") == "x"


# Who listens


def test_the_peer_is_the_process_that_listens(
    serve: Callable[[Talk], Path], tmp_path: Path
) -> None:
    """As the kernel knows it, whatever a PID file says."""
    with Qmp(serve(Peer.greet)) as qmp:
        assert qmp.peer_pid == os.getpid()
    other = tmp_path / "other.sock"
    listen = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print(flush=True); c, _ = s.accept(); c.sendall(sys.argv[2].encode()); c.recv(999);"
        'c.sendall(b\'{"return": {}, "id": 1}\\n\'); c.recv(1)'
    )
    command = [sys.executable, "-I", "-S", "-c", listen, str(other), GREETING.decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Qmp(other) as qmp:
            assert qmp.peer_pid == process.pid


# Where QEMU says nothing, or something else


def test_silence_ends_at_the_deadline(serve: Callable[[Talk], Path]) -> None:
    """A stopped QEMU accepts, by its kernel, and says nothing."""
    path = serve(lambda peer: None)
    seconds, text = elapsed(lambda: Qmp(path, timeout=DEADLINE), QmpSilent)
    assert DEADLINE <= seconds < DEADLINE + 1
    assert text == "QEMU does not answer"


def test_silence_after_the_greeting_ends_at_the_deadline(serve: Callable[[Talk], Path]) -> None:
    """Of the capabilities, and of any command."""
    path = serve(lambda peer: peer.send(GREETING))
    assert elapsed(lambda: Qmp(path, timeout=DEADLINE), QmpSilent)[0] < DEADLINE + 1


def test_a_command_has_a_deadline_of_its_own(serve: Callable[[Talk], Path]) -> None:
    """Events do not put it off."""

    def talk(peer: Peer) -> None:
        peer.greet()
        peer.command()
        for _ in range(1000):
            peer.send(EVENT)
            time.sleep(0.02)

    with Qmp(serve(talk)) as qmp:
        seconds, _ = elapsed(lambda: qmp.execute("query", timeout=DEADLINE), QmpSilent)
        assert DEADLINE <= seconds < DEADLINE + 1


def test_a_full_queue_of_clients_is_silence(tmp_path: Path) -> None:
    """A stopped QEMU takes two into its queue; Linux refuses the third at once, with EAGAIN."""
    path = tmp_path / "qmp.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(1)
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        seconds, text = elapsed(lambda: Qmp(path, timeout=DEADLINE), QmpSilent)
        assert DEADLINE <= seconds < DEADLINE + 1
        assert text == "QEMU does not take the connection"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"hello\r\n", "QEMU sent no JSON"),
        (b"\xff\xfe\r\n", "QEMU sent no JSON"),
        (b"\r\n", "QEMU sent no JSON"),
        (b"[1]\r\n", "QEMU sent no JSON object"),
        (b'{"hello": 1}\r\n', "{path} is not a QMP socket"),
    ],
)
def test_what_is_no_qmp_is_called_so(
    serve: Callable[[Talk], Path], said: bytes, problem: str
) -> None:
    """Another program's socket, or a damaged stream."""
    path = serve(lambda peer: peer.send(said))
    _, text = elapsed(lambda: Qmp(path), QmpError)
    assert text == problem.format(path=path)


@pytest.mark.parametrize("said", [b"", GREETING[:10], GREETING])
def test_a_connection_that_closes_is_an_error_at_once(tmp_path: Path, said: bytes) -> None:
    """Before the greeting, in the middle of a line, or before a command is sent."""
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        seconds, text = elapsed(lambda: Qmp(path), QmpError)
        thread.join(5)
    assert seconds < 2
    assert text.startswith("QEMU closed the connection")


def test_a_socket_that_nobody_listens_on_is_an_error(tmp_path: Path) -> None:
    """Neither one that is not there, nor one that a dead QEMU left behind."""
    path = tmp_path / "qmp.sock"
    assert elapsed(lambda: Qmp(path), QmpError)[1] == f"{path}: No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert elapsed(lambda: Qmp(path), QmpError)[1] == f"{path}: Connection refused"


def test_an_errand_that_fails_lets_the_next_client_in(serve: Callable[[Talk], Path]) -> None:
    """Nothing stays open behind an error."""
    first = threading.Event()

    def talk(peer: Peer) -> None:
        if first.is_set():
            peer.greet()
        else:
            first.set()

    path = serve(talk)
    elapsed(lambda: Qmp(path, timeout=DEADLINE), QmpSilent)
    with Qmp(path):
        pass

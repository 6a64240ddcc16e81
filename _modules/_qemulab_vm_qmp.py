"""
One QMP socket: QEMU's control protocol, every read with a deadline.

QEMU serves one client at a time: a second one connects and is greeted only when the first has
left. So a connection is opened for one errand and closed behind it.
"""

from __future__ import annotations

import array
import json
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import _qemulab_host_log as log

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0
LINE_LIMIT = 10 * 2**20
"""Bytes of one answer. libvirt's limit, and the QEMU project's own client's."""


class QmpError(Exception):
    """QEMU refused a command, or did not answer in time."""


class QmpSilent(QmpError):
    """Nobody answers: QEMU is stopped, or another client holds the socket."""


class Qmp:
    """
    A connection to a running QEMU, for the length of a ``with`` block.

    path
        The socket.

    timeout
        Seconds to wait for the greeting. Default 5.
    """

    def __init__(self, path: Path, timeout: float = CONNECT_TIMEOUT) -> None:
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._path = path
        deadline = time.monotonic() + timeout
        try:
            with log.step("qmp", lambda: f"{path} connect"):
                self._connect(str(path), deadline)
                greeting = self._receive(deadline)
            if "QMP" not in greeting:
                raise QmpError(f"{path} is not a QMP socket")
            self.execute("qmp_capabilities", timeout=timeout)
        except OSError as err:
            self.close()
            raise QmpError(f"{path}: {err.strerror or err}") from err
        except QmpError:
            self.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the next client in."""
        self._socket.close()

    @property
    def peer_pid(self) -> int:
        """The process that listens on the socket, as the kernel knows it (SO_PEERCRED)."""
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", data)[0])

    def _connect(self, path: str, deadline: float) -> None:
        """Connect; a listener whose queue is full (Linux says EAGAIN at once) is waited for."""
        while True:
            try:
                return self._socket.connect(path)
            except BlockingIOError as err:
                if time.monotonic() >= deadline:
                    raise QmpSilent("QEMU does not take the connection") from err
                time.sleep(0.01)

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        timeout: float = COMMAND_TIMEOUT,
        descriptor: int | None = None,
    ) -> Any:
        """
        Run one command and return its answer.

        command
            The QMP command.

        arguments
            Its arguments; none by default.

        timeout
            Seconds to wait for the answer. Default 10.

        descriptor
            A file descriptor to hand over with it (``add-fd``); none by default.

        Raises QmpError where QEMU refuses, QmpSilent where it does not answer in time.
        """
        deadline = time.monotonic() + timeout
        with log.step("qmp", lambda: f"{self._path} {command}{arguments or ''}") as ended:
            number = self._send(command, arguments, timeout, descriptor)
            answer = self._answer(number, command, deadline)
            ended(answer)
            return answer

    def query(
        self, *commands: str | tuple[str, dict[str, Any]], timeout: float = COMMAND_TIMEOUT
    ) -> list[Any]:
        """
        Run commands, each alone or with its arguments, and return their answers, in order.

        They are sent before the first answer is read: QEMU looks at the socket only when its
        main loop comes round, which takes milliseconds on a busy host. Errors as in ``execute``.
        """
        deadline = time.monotonic() + timeout
        asked = [each if isinstance(each, tuple) else (each, {}) for each in commands]
        names = [name for name, _ in asked]
        with log.step("qmp", lambda: f"{self._path} {', '.join(names)}") as ended:
            numbers = [(self._send(name, more, timeout), name) for name, more in asked]
            answers = [self._answer(number, command, deadline) for number, command in numbers]
            ended(answers)
            return answers

    def _send(
        self,
        command: str,
        arguments: dict[str, Any] | None,
        timeout: float,
        descriptor: int | None = None,
    ) -> int:
        """Send one command and return its number."""
        self._number += 1
        message: dict[str, Any] = {"execute": command, "id": self._number}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode() + b"\n"
        try:
            self._socket.settimeout(timeout)
            if descriptor is None:
                self._socket.sendall(data)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                self._socket.sendmsg([data], [rights])
        except TimeoutError as err:
            raise QmpSilent(f"QEMU does not take {command}") from err
        except OSError as err:
            raise QmpError(f"QEMU closed the connection: {err.strerror or err}") from err
        return self._number

    def _answer(self, number: int, command: str, deadline: float) -> Any:
        """Return the answer to a command that was sent; answers come in the commands' order."""
        while True:
            answer = self._receive(deadline)
            if answer.get("id") != number:
                continue
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error'].get('desc', answer['error'])}")
            return answer.get("return")

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Return the next message that is no event; events are kept aside."""
        while True:
            message = self._line(deadline)
            if "event" not in message:
                return message
            self.events.append(message)

    def _line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpSilent("QEMU does not answer")
            if len(self._buffer) > LINE_LIMIT:
                raise QmpError(f"QEMU sent a line of over {LINE_LIMIT} bytes")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError as err:
                raise QmpSilent("QEMU does not answer") from err
            except OSError as err:
                raise QmpError(f"QEMU closed the connection: {err.strerror or err}") from err
            if not data:
                raise QmpError("QEMU closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as err:
            raise QmpError("QEMU sent no JSON") from err
        if not isinstance(message, dict):
            raise QmpError("QEMU sent no JSON object")
        return message

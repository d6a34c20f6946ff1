# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP client for tests: commands, events, out-of-band execution, and raw text."""

import json
import socket
import time

from support.program import is_oracle, slow_factor


class QMPError(Exception):
    """An error reply."""

    def __init__(self, reply):
        self.error_class = reply["error"]["class"]
        self.desc = reply["error"]["desc"]
        self.reply = reply
        super().__init__(f"{self.error_class}: {self.desc}")


class QMPClosed(Exception):
    """The server closed the connection."""


def jsonable(arguments, names):
    merged = dict(arguments or {})
    merged.update({name.replace("_", "-"): value for name, value in names.items()})
    return merged


class QMP:
    """One connection. Events that arrive while a reply is awaited are kept in `events`."""

    def __init__(self, sock, timeout=20):
        self.sock = sock
        self.timeout = timeout * slow_factor()
        self.events = []
        self.greeting = None
        self._buffer = b""
        self._fds = ()

    @classmethod
    def connect(cls, address, negotiate=True, oob=False):
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.connect(address)
        client = cls(sock)
        if negotiate:
            client.negotiate(oob)
        return client

    def negotiate(self, oob=False):
        self.greeting = self.recv()
        assert "QMP" in self.greeting, self.greeting
        self.send("qmp_capabilities", {"enable": ["oob"]} if oob else None)
        reply = self.recv_reply()
        if "QMP" in reply and is_oracle():  # QEMU 7.2 now and then greets twice
            reply = self.recv_reply()
        assert reply == {"return": {}}, reply
        return self.greeting

    # Raw text.

    def send_text(self, text):
        data = text.encode() if isinstance(text, str) else text
        if self._fds:
            data = data[socket.send_fds(self.sock, [data], self._fds):]
            self._fds = ()
        self.sock.sendall(data)

    def with_fds(self, *fds):
        """The client again, which sends these descriptors along with the next message."""
        self._fds = fds
        return self

    def recv_line(self, timeout=None):
        """The next line without its end; QMPClosed at the end of the stream."""
        self.sock.settimeout(timeout or self.timeout)
        while b"\n" not in self._buffer:
            try:
                data = self.sock.recv(65536)
            except ConnectionError as error:
                raise QMPClosed() from error
            if not data:
                raise QMPClosed()
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode()

    def recv(self, timeout=None):
        """The next message, event or reply; also one spread over several lines (pretty)."""
        text = self.recv_line(timeout)
        while True:
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                text += "\n" + self.recv_line(timeout)

    def recv_reply(self, timeout=None):
        while True:
            message = self.recv(timeout)
            if "event" not in message:
                return message
            self.events.append(message)

    # Commands.

    def send(self, name, arguments=None, ident=None, oob=False):
        message = {"exec-oob" if oob else "execute": name}
        if arguments is not None:
            message["arguments"] = arguments
        if ident is not None:
            message["id"] = ident
        self.send_text(json.dumps(message) + "\n")

    def reply(self, name, arguments=None, /, **names):
        """The whole reply, whether return or error."""
        merged = jsonable(arguments, names)
        self.send(name, merged if merged or arguments is not None else None)
        return self.recv_reply()

    def cmd(self, name, arguments=None, /, **names):
        reply = self.reply(name, arguments, **names)
        if "error" in reply:
            raise QMPError(reply)
        assert "return" in reply, reply
        return reply["return"]

    def error(self, name, arguments=None, /, **names):
        """The description of the error that the command must give."""
        reply = self.reply(name, arguments, **names)
        assert "error" in reply, f"{name} succeeded: {reply}"
        return reply["error"]["desc"]

    def error_class(self, name, arguments=None, /, **names):
        reply = self.reply(name, arguments, **names)
        assert "error" in reply, f"{name} succeeded: {reply}"
        return reply["error"]["class"]

    # Events.

    def event(self, name, timeout=None, match=None):
        """The oldest event of that name (whose data holds `match`), waiting for it."""
        deadline = time.monotonic() + (timeout or self.timeout)
        seen = 0
        while True:
            while seen < len(self.events):
                event = self.events[seen]
                if event["event"] == name and (match or {}).items() <= event.get(
                        "data", {}).items():
                    return self.events.pop(seen)
                seen += 1
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no event {name}; seen {self.events}")
            message = self.recv(left)
            assert "event" in message, message
            self.events.append(message)

    def no_event(self, name, within=0.3):
        """Asserts that no such event comes within that many seconds."""
        try:
            event = self.event(name, within)
        except (TimeoutError, socket.timeout):
            return
        raise AssertionError(f"unexpected event {event}")

    def closed(self, timeout=None):
        """Reads until the server closes; the messages that came before."""
        messages = []
        try:
            while True:
                messages.append(self.recv(timeout))
        except QMPClosed:
            return messages

    def close(self):
        self.sock.close()

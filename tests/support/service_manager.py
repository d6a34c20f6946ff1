# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for systemd that keeps descriptors for a service (sd_notify(3), FDSTORE=1)."""

import array
import os
import select
import socket
import sys
import threading

# Moves what was passed to 3 and up, where $LISTEN_FDS has it, and becomes the service.
START = """
import fcntl, os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in fds]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place, inheritable=True)
os.closerange(3 + len(fds), 1000)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServiceManager:
    """`store` holds [name, descriptor] pairs; `messages` all that was said."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.store = []
        self.messages = []
        self.stop_pipe = os.pipe()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            ready, _, _ = select.select([self.socket, self.stop_pipe[0]], [], [])
            if self.stop_pipe[0] in ready:
                return
            text, ancillary, _, _ = self.socket.recvmsg(65536, 65536)
            fds = array.array("i")
            for _, _, data in ancillary:
                fds.frombytes(data)
            self.take(dict(line.split("=", 1) for line in text.decode().split("\n")), list(fds))

    def take(self, words, fds):
        self.messages.append(words)
        if words.get("FDSTORE") == "1":
            # As systemd does, but for FDPOLL=0, what the other side has closed is not kept.
            self.store += [[words["FDNAME"], fd] for fd in fds]
            return
        if words.get("FDSTOREREMOVE") == "1":
            gone = [entry for entry in self.store if entry[0] == words["FDNAME"]]
            self.store = [entry for entry in self.store if entry not in gone]
            fds += [fd for _, fd in gone]
        for fd in fds:
            os.close(fd)

    def names(self):
        return sorted(name for name, _ in self.store)

    def prepare(self, daemon):
        """The daemon's next start() is that of a service with what is in the store."""
        fds = [fd for _, fd in self.store]
        daemon.env.update({
            "NOTIFY_SOCKET": self.path, "FDSTORE": "512", "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in self.store)})
        daemon.pass_fds = tuple(fds)
        daemon.wrapper = [sys.executable, "-c", START, ",".join(map(str, fds))]

    def close(self):
        os.write(self.stop_pipe[1], b"x")
        self.thread.join()
        self.socket.close()
        for fd in [fd for _, fd in self.store] + list(self.stop_pipe):
            os.close(fd)

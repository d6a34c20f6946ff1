# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user-blk front end and a guest's driver in one, that can misbehave in every way."""

import array
import mmap
import os
import select
import socket
import struct
import time

(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD,
 SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL,
 SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
 SET_VRING_ENABLE) = range(1, 19)
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE = 31, 32, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40

F_PROTOCOL, F_VERSION_1, F_PACKED, F_IN_ORDER, F_EVENT_IDX, F_INDIRECT = 30, 32, 34, 35, 29, 28
F_BLK_RO, F_BLK_FLUSH, F_BLK_MQ, F_LOG_ALL = 5, 9, 12, 26
(P_MQ, P_LOG_SHMFD, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT, P_RESET, P_SLOTS,
 P_STATUS) = 0, 1, 3, 5, 9, 12, 13, 15, 16

T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2

NEXT, WRITE, INDIRECT = 1, 2, 4
USER_BASE = 0x7f0000000000
TIME_LIMIT = 60


def header(request, payload=b"", flags=1):
    return struct.pack("<III", request, flags, len(payload)) + payload


def block_header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


class Closed(Exception):
    """The back end has closed the connection."""


class FrontEnd:
    """The connection and its messages."""

    def __init__(self, path, memory_size=8 << 20):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIME_LIMIT)
        self.socket.connect(path)
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, memory_size)
        self.memory_size = memory_size
        self.memory = mmap.mmap(self.memory_fd, memory_size)
        self.features = 0

    def close(self):
        self.socket.close()
        self.memory.close()
        os.close(self.memory_fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([data], rights)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def send(self, request, payload=b"", fds=(), need_reply=False):
        self.send_raw(header(request, payload, 9 if need_reply else 1), fds)

    def receive(self, size):
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionResetError as error:
                raise Closed from error
            if not piece:
                raise Closed
            data += piece
        return data

    def reply(self, with_fd=False):
        fds = []
        if with_fd:
            head, ancillary, _, _ = self.socket.recvmsg(12, 1024)
            for _, _, data in ancillary:
                fds += array.array("i", data)
        else:
            head = self.receive(12)
        if not head:
            raise Closed
        request, flags, size = struct.unpack("<III", head)
        assert flags & 7 == 5, f"flags {flags:#x} in a reply to {request}"
        payload = self.receive(size)
        return (request, payload, fds) if with_fd else (request, payload)

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        answered, reply = self.reply()
        assert answered == request
        return reply

    def ask_u64(self, request, payload=b""):
        return struct.unpack("<Q", self.ask(request, payload))[0]

    def acknowledged(self, request, payload=b"", fds=()):
        """Sends with NEED_REPLY; whether the back end says that it worked."""
        self.send(request, payload, fds, need_reply=True)
        answered, reply = self.reply()
        assert answered == request
        return struct.unpack("<Q", reply)[0] == 0

    def is_closed(self):
        """Waits until the back end hangs up."""
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
        return True

    # Set-up, step by step.

    def negotiate(self, features=0, protocol=None, without=0):
        offered = self.ask_u64(GET_FEATURES)
        self.send(SET_OWNER)
        assert offered >> F_PROTOCOL & 1
        if protocol is None:
            protocol = 1 << P_MQ | 1 << P_REPLY_ACK | 1 << P_CONFIG | 1 << P_SLOTS | 1 << P_INFLIGHT
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
        wanted = (1 << F_VERSION_1 | 1 << F_PROTOCOL | 1 << F_INDIRECT | 1 << F_BLK_FLUSH |
                  features) & ~without
        assert wanted & ~offered == 0
        self.features = wanted
        self.send(SET_FEATURES, struct.pack("<Q", wanted))

    def region(self, guest=0, size=None, user=USER_BASE, offset=0):
        return struct.pack("<QQQQ", guest, size or self.memory_size, user, offset)

    def share_memory(self):
        self.send(SET_MEM_TABLE, struct.pack("<II", 1, 0) + self.region(), [self.memory_fd])

    def config(self, size=60):
        reply = self.ask(GET_CONFIG, struct.pack("<III", 0, size, 0) + bytes(size))
        return reply[12:]

    def capacity(self):
        return struct.unpack_from("<Q", self.config())[0]


class Vring:
    """One virtqueue in the front end's memory: rings at `at`, buffers in the 64 KiB behind them."""

    RINGS = 0x4000

    def __init__(self, front_end, index=0, size=16, at=None):
        self.front_end = front_end
        self.memory = front_end.memory
        self.index = index
        self.size = size
        self.packed = bool(front_end.features >> F_PACKED & 1)
        self.at = at if at is not None else 0x20000 * index
        self.table = self.at
        self.available = self.at + 0x1000
        self.used = self.at + 0x2000
        self.buffers = self.at + self.RINGS
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.next = 0  # packed: place in the ring
        self.wrap = 1
        self.seen = 0
        self.seen_wrap = 1
        self.spans = {}

    def close(self):
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)

    def addresses(self, flags=0, log=0):
        return struct.pack("<IIQQQQ", self.index, flags, USER_BASE + self.table,
                           USER_BASE + self.used, USER_BASE + self.available, log)

    def set_up(self, base=None):
        """All that goes before kick and enable."""
        if base is None:
            base = 0x80008000 if self.packed else 0
        send = self.front_end.send
        send(SET_VRING_NUM, struct.pack("<II", self.index, self.size))
        send(SET_VRING_BASE, struct.pack("<II", self.index, base))
        send(SET_VRING_ADDR, self.addresses())
        send(SET_VRING_CALL, struct.pack("<Q", self.index), [self.call_fd])
        send(SET_VRING_ERR, struct.pack("<Q", self.index), [self.err_fd])

    def run(self, base=None):
        self.set_up(base)
        self.front_end.send(SET_VRING_KICK, struct.pack("<Q", self.index), [self.kick_fd])
        self.front_end.send(SET_VRING_ENABLE, struct.pack("<II", self.index, 1))
        return self

    def stop(self):
        reply = self.front_end.ask(GET_VRING_BASE, struct.pack("<II", self.index, 0))
        return struct.unpack("<II", reply)[1]

    # The driver's side.

    def descriptor(self, place, address, size, flags, last=0, table=None):
        """`last`: of a split ring the successor, of a packed one the id."""
        at = (self.table if table is None else table) + 16 * place
        words = (address, size, last, flags) if self.packed else (address, size, flags, last)
        struct.pack_into("<QIHH", self.memory, at, *words)

    def available_index(self):
        return struct.unpack_from("<H", self.memory, self.available + 2)[0]

    def set_available_index(self, index):
        struct.pack_into("<H", self.memory, self.available + 2, index & 0xffff)

    def make_available(self, head):
        index = self.available_index()
        struct.pack_into("<H", self.memory, self.available + 4 + 2 * (index % self.size), head)
        self.set_available_index(index + 1)

    def add(self, chain, head=0):
        """`chain` is (address, size, writable); `head` the first descriptor, or the id."""
        if self.packed:
            return self.add_packed(chain, head)
        for i, (address, size, writable) in enumerate(chain):
            flags = (WRITE if writable else 0) | (NEXT if i + 1 < len(chain) else 0)
            self.descriptor(head + i, address, size, flags, head + i + 1)
        return self.make_available(head)

    def add_packed(self, chain, ident, more_flags=0):
        first = None
        self.spans[ident] = len(chain)
        for i, (address, size, writable) in enumerate(chain):
            flags = (WRITE if writable else 0) | (NEXT if i + 1 < len(chain) else 0) | more_flags
            flags |= 0x80 if self.wrap else 0x8000
            if first is None:
                first = (self.table + 16 * self.next + 14, flags)
                self.descriptor(self.next, address, size, flags ^ 0x8080, ident)
            else:
                self.descriptor(self.next, address, size, flags, ident)
            self.next += 1
            if self.next == self.size:
                self.next, self.wrap = 0, self.wrap ^ 1
        struct.pack_into("<H", self.memory, *first)

    def kick(self):
        os.eventfd_write(self.kick_fd, 1)

    def reap(self):
        """(id, written) of the next used element, or None."""
        if self.packed:
            at = self.table + 16 * self.seen
            _, written, ident, flags = struct.unpack_from("<QIHH", self.memory, at)
            if (flags >> 15) != self.seen_wrap or (flags >> 7 & 1) != self.seen_wrap:
                return None
            self.seen += self.spans[ident]
            if self.seen >= self.size:
                self.seen, self.seen_wrap = self.seen - self.size, self.seen_wrap ^ 1
            return ident, written
        if struct.unpack_from("<H", self.memory, self.used + 2)[0] == self.seen & 0xffff:
            return None
        place = self.used + 4 + 8 * (self.seen % self.size)
        self.seen += 1
        return struct.unpack_from("<II", self.memory, place)

    def wait(self):
        """The next used element; waits for the call."""
        limit = time.monotonic() + TIME_LIMIT
        while True:
            if not self.packed:  # with an event index: call at the next one
                struct.pack_into("<H", self.memory, self.available + 4 + 2 * self.size,
                                 self.seen & 0xffff)
            done = self.reap()
            if done is not None:
                return done
            assert time.monotonic() < limit, "no answer"
            if select.select([self.call_fd], [], [], 1)[0]:
                os.eventfd_read(self.call_fd)

    def forget_calls(self):
        """Those of requests that were found done before their call was heard."""
        if select.select([self.call_fd], [], [], 0)[0]:
            os.eventfd_read(self.call_fd)

    def is_broken(self):
        """Waits for the signal that the ring is broken."""
        return bool(select.select([self.err_fd], [], [], TIME_LIMIT)[0])

    def request(self, kind, sector=0, data=b"", into=0):
        """One request from start to end: (status, what was read)."""
        base = self.buffers
        self.memory[base:base + 16] = block_header(kind, sector)
        chain = [(base, 16, False)]
        at = base + 0x1000
        if data:
            self.memory[at:at + len(data)] = data
            chain.append((at, len(data), False))
        if into:
            chain.append((at, into, True))
        self.memory[base + 32:base + 33] = b"\xff"
        chain.append((base + 32, 1, True))
        self.add(chain)
        self.kick()
        self.wait()
        return self.memory[base + 32], self.memory[at:at + into]

    def read(self, sector, size):
        status, data = self.request(T_IN, sector, into=size)
        assert status == OK
        return data

    def write(self, sector, data):
        status, _ = self.request(T_OUT, sector, data)
        assert status == OK


def start(path, features=0, queues=1, size=16, **more):
    """A front end whose rings run."""
    front_end = FrontEnd(path)
    front_end.negotiate(features, **more)
    front_end.share_memory()
    return front_end, [Vring(front_end, i, size).run() for i in range(queues)]

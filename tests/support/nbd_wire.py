# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD protocol by hand: every message can be sent wrong.

Numbers are those of the protocol's text, in its words. Nothing here checks what is sent; what is
received is checked for form.
"""

import contextlib
import socket
import struct

from support.program import slow_factor

MAGIC = b"NBDMAGIC"
IHAVEOPT = b"IHAVEOPT"
OPT_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF
EXT_REQUEST_MAGIC = 0x21E41C71
EXT_CHUNK_MAGIC = 0x6E8A278C

C_FIXED, C_NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS = 1, 2, 3, 4, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META, OPT_SET_META, OPT_EXTENDED = 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID = 0x80000001, 0x80000002, 0x80000003
REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_TOO_BIG = 0x80000005, 0x80000006, 0x80000009

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_FUA = 1 << 1, 1 << 2, 1 << 3
FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, FLAG_SEND_DF = 1 << 5, 1 << 6, 1 << 7
FLAG_MULTI_CONN, FLAG_SEND_CACHE, FLAG_FAST_ZERO = 1 << 8, 1 << 10, 1 << 11

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4
CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 5, 6, 7
F_FUA, F_NO_HOLE, F_DF, F_REQ_ONE, F_FAST_ZERO, F_PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

DONE = 1
T_NONE, T_DATA, T_HOLE, T_STATUS, T_STATUS_EXT = 0, 1, 2, 5, 6
T_ERROR, T_ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108

MAX_REQUEST = 32 << 20


class Closed(Exception):
    """The server closed the connection (or reset it)."""


class NBD:
    """A connection; `address` is a path or a (host, port)."""

    def __init__(self, address, timeout=20):
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout * slow_factor())
        self.sock.connect(address)
        self.structured = self.extended = False
        self.cookie = 1
        self.size = self.flags = None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with a reset where the transport has one (TCP)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # Bytes.

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, size):
        data = b""
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionError as error:
                raise Closed() from error
            if not part:
                raise Closed(f"after {len(data)} of {size} bytes")
            data += part
        return data

    def unpack(self, form):
        return struct.unpack(form, self.recv(struct.calcsize(form)))

    def expect_closed(self, timeout=5):
        """Asserts that the server closes (whatever it says before)."""
        self.sock.settimeout(timeout * slow_factor())
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass

    # Handshake.

    def greeting(self):
        """The server's handshake flags."""
        assert self.recv(8) == MAGIC
        assert self.recv(8) == IHAVEOPT
        return self.unpack(">H")[0]

    def hello(self, flags=C_FIXED | C_NO_ZEROES):
        server = self.greeting()
        self.send(struct.pack(">I", flags))
        return server

    def send_option(self, option, data=b"", length=None):
        length = len(data) if length is None else length
        self.send(IHAVEOPT + struct.pack(">II", option, length) + data)

    def option_reply(self):
        """(option, type, payload)"""
        magic, option, kind, length = self.unpack(">QIII")
        assert magic == OPT_REPLY_MAGIC, hex(magic)
        assert length <= 1 << 20
        return option, kind, self.recv(length)

    def option(self, option, data=b"", length=None):
        """All replies up to ACK or an error: [(type, payload), ...]."""
        self.send_option(option, data, length)
        replies = []
        while True:
            echoed, kind, payload = self.option_reply()
            assert echoed == option
            replies.append((kind, payload))
            if kind == REP_ACK or kind >> 31:
                return replies

    def negotiate_structured(self):
        assert self.option(OPT_STRUCTURED_REPLY) == [(REP_ACK, b"")]
        self.structured = True

    def negotiate_extended(self):
        assert self.option(OPT_EXTENDED) == [(REP_ACK, b"")]
        self.structured = self.extended = True

    @staticmethod
    def info_data(name, infos=()):
        name = name.encode() if isinstance(name, str) else name
        return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos))
                + b"".join(struct.pack(">H", i) for i in infos))

    def info(self, name="", infos=(), option=OPT_INFO):
        """What the server says of an export: {info type: payload}, or the error's number."""
        replies = self.option(option, self.info_data(name, infos))
        if replies[-1][0] != REP_ACK:
            return replies[-1][0]
        found = {struct.unpack(">H", p[:2])[0]: p[2:] for kind, p in replies if kind == REP_INFO}
        self.size, self.flags = struct.unpack(">QH", found[INFO_EXPORT])
        return found

    def go(self, name="", infos=()):
        return self.info(name, infos, OPT_GO)

    @staticmethod
    def meta_data(name, queries):
        name = name.encode() if isinstance(name, str) else name
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        for query in queries:
            query = query.encode() if isinstance(query, str) else query
            data += struct.pack(">I", len(query)) + query
        return data

    def meta(self, name, queries, option=OPT_SET_META):
        """{context name: identifier}, or the error's number."""
        replies = self.option(option, self.meta_data(name, queries))
        if replies[-1][0] != REP_ACK:
            return replies[-1][0]
        return {p[4:].decode(): struct.unpack(">I", p[:4])[0]
                for kind, p in replies if kind == REP_META}

    def open(self, name="", structured=True, contexts=()):
        """Everything up to the transmission phase; the identifiers of the contexts."""
        self.hello()
        ids = {}
        if structured:
            self.negotiate_structured()
        if contexts:
            ids = self.meta(name, contexts)
        found = self.go(name)
        assert isinstance(found, dict), hex(found)
        return ids

    # Transmission.

    def send_request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None,
                     magic=None):
        if cookie is None:
            self.cookie += 1
            cookie = self.cookie
        if magic is None:
            magic = EXT_REQUEST_MAGIC if self.extended else REQUEST_MAGIC
        head = struct.pack(">IHHQQQ" if self.extended else ">IHHQQI", magic, flags, command,
                           cookie, offset, length)
        self.send(head + payload)
        return cookie

    def read_reply(self, read_length=0):
        """One message: (cookie, error, type, payload, done). A simple reply is of type None."""
        magic, = self.unpack(">I")
        if magic == SIMPLE_MAGIC:
            error, cookie = self.unpack(">IQ")
            data = self.recv(read_length) if read_length and not error else b""
            return cookie, error, None, data, True
        if magic == CHUNK_MAGIC:
            flags, kind, cookie, length = self.unpack(">HHQI")
        else:
            assert magic == EXT_CHUNK_MAGIC, hex(magic)
            flags, kind, cookie, _, length = self.unpack(">HHQQQ")
        assert length <= MAX_REQUEST + 64
        payload = self.recv(length)
        error = struct.unpack(">I", payload[:4])[0] if kind & 0x8000 else 0
        return cookie, error, kind, payload, bool(flags & DONE)

    def request(self, command, offset=0, length=0, flags=0, payload=b""):
        """Sends a request and reads its whole reply: (error, [(type, payload), ...])."""
        cookie = self.send_request(command, offset, length, flags, payload)
        simple_read = length if command == CMD_READ and not self.structured else 0
        chunks = []
        error = 0
        while True:
            got, failed, kind, data, done = self.read_reply(simple_read)
            assert got == cookie
            error = error or failed
            chunks.append((kind, data))
            if done:
                return error, chunks

    def read(self, offset, length, flags=0):
        """The data; raises OSError with the server's error number."""
        error, chunks = self.request(CMD_READ, offset, length, flags)
        if error:
            raise OSError(error, "NBD read")
        if not self.structured:
            return chunks[0][1]
        data = bytearray(length)
        for kind, payload in chunks:
            if kind == T_DATA:
                start = struct.unpack(">Q", payload[:8])[0] - offset
                data[start:start + len(payload) - 8] = payload[8:]
        return bytes(data)

    def write(self, offset, data, flags=0):
        return self.request(CMD_WRITE, offset, len(data), flags, data)[0]

    def status(self, offset, length, flags=0):
        """{context: [(length, flags), ...]}; raises OSError."""
        error, chunks = self.request(CMD_BLOCK_STATUS, offset, length, flags)
        if error:
            raise OSError(error, "NBD block status")
        found = {}
        for kind, payload in chunks:
            if kind == T_STATUS:
                context, = struct.unpack(">I", payload[:4])
                found[context] = list(struct.iter_unpack(">II", payload[4:]))
            elif kind == T_STATUS_EXT:
                context, count = struct.unpack(">II", payload[:8])
                found[context] = list(struct.iter_unpack(">QQ", payload[8:]))
                assert len(found[context]) == count
        return found

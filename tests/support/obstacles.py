"""Real obstacles between a machine and the upstream: servers with any response, proxies, certificates."""

from __future__ import annotations

import datetime as dt
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

REFUSAL = b'{"error": {"code": "no_token", "message": "No token specified."}}'
"""What the upstream says to a question without a token."""


@dataclass
class Says:
    """What a server answers to everything; `fast` is how many seconds its clock is ahead, None for one without."""

    status: int = 400
    body: bytes = REFUSAL
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    fast: float | None = 0
    seen: list[str] = field(default_factory=list)
    """Every request with its headers, as text."""


@contextmanager
def saying(says: Says, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[int]:
    """A server on a port of its own, which it yields."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            says.seen.append(f"{self.requestline}\n{self.headers}")
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response_only(says.status)
            if says.fast is not None:
                self.send_header("Date", formatdate(time.time() + says.fast, usegmt=True))
            headers = {"Content-Type": says.kind, "Content-Length": str(len(says.body)), **says.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(says.body)

        do_GET = do_POST = do_HEAD = do_CONNECT = answer  # noqa: N815  (names of the base class)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002  (its name in the base class)
            """Nothing: stderr is the tests'."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust the certificate hangs up."""

        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            connection, address = super().get_request()
            return (
                tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) if tls else connection
            ), address

    with _running(Server((host, 0), Handler)) as port:
        yield port


@contextmanager
def tunnelling(port: int) -> Iterator[int]:
    """A proxy that connects everybody to one port of this machine, wherever they wanted to go."""

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as other:
                self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                ends = {self.connection: other, other: self.connection}
                with suppress(OSError):
                    while True:
                        for end in select.select(list(ends), [], [], 5)[0]:
                            if not (data := end.recv(65536)):
                                return
                            ends[end].sendall(data)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002
            """Nothing."""

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as own:
        yield own


@contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[int]:
    """A server in a thread, and its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def full() -> Iterator[int]:
    """A port that takes no more connections: whoever comes waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = int(listener.getsockname()[1])
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(("127.0.0.1", port))
        time.sleep(0.1)
        try:
            yield port
        finally:
            for each in waiting:
                each.close()


def nobody() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certificate(folder: Path, *names: str, days: int = 90) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS with a certificate that nobody has signed but itself, and the file that has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=100))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{names[0]}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    both = folder / f"{names[0]}-key.pem"
    both.write_bytes(file.read_bytes() + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, file

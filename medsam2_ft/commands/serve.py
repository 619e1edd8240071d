"""``medsam2-ft serve``: a local server for web pages, viewers and scripts."""

import ipaddress
import os
import socket
from pathlib import Path

from medsam2_ft.errors import UserError

KEEP_ALIVE_S = 60
"""Longer than Retry-After: a client that comes back as it was told finds its connection open."""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    model: str | None = None,
    token: str | None = None,
    models: Path | None = None,
    watch: list[str] | None = None,
    accept_dir: Path | None = None,
    allow_host: list[str] | None = None,
    device: str = "auto",
    max_sessions: int = 8,
) -> None:
    """Serves models over HTTP, on this machine unless told otherwise, until Ctrl-C.

    Official weights in the folder checkpoints can be chosen at once. docs/serve.md says more.

    Args:
        host: Address to listen on; one that other machines reach needs --token.
        port: 0 takes a free one.
        model: Id of the model for clients that choose none; default is the first.
        token: Clients must send it; the environment variable MEDSAM2FT_TOKEN keeps it out of
            the process list.
        models: YAML list of models (id, file, sha256, image_size, intensity, strategy).
        watch: Folders of exports, such as 'runs/*/exports'; new ones appear without a restart.
        accept_dir: Folder for results that users accept as training cases.
        allow_host: Further names by which clients may address the server.
        device: auto, cpu, cuda, cuda:1, mps.
        max_sessions: Clients at the same time.
    """
    token = token or os.environ.get("MEDSAM2FT_TOKEN") or None
    if not _is_loopback(host) and token is None:
        raise UserError(
            f"--host {host}: other machines would reach the server; give --token, or stay at "
            "127.0.0.1"
        )
    if max_sessions < 1:
        raise UserError(f"--max_sessions {max_sessions}: give 1 or more")
    try:
        import uvicorn

        from medsam2_ft.serve.api import create_app
        from medsam2_ft.serve.ui.page import mount
    except ModuleNotFoundError as error:
        raise UserError(
            f"serve needs the package {error.name}; install it: pip install 'medsam2-ft[serve]'"
        ) from error
    from medsam2_ft.serve.engine import ModelEngine
    from medsam2_ft.serve.registry import Registry
    from medsam2_ft.serve.settings import NOTICE, Settings

    engine = ModelEngine(Registry(models, watch or ()), model, device)
    with _listen(host, port) as listener:
        address, bound = listener.getsockname()[:2]
        names = (*Settings.hosts, host, address, *(allow_host or ()))
        app = create_app(
            engine,
            Settings(token=token, hosts=names, accept_dir=accept_dir, max_sessions=max_sessions),
        )
        mount(app)
        shown = f"[{address}]" if ":" in address else address
        print(f"medsam2-ft serves on http://{shown}:{bound}/api/v1  (Ctrl-C stops it)")
        print(f"page: http://{shown}:{bound}/ui/")
        print(f"models: {', '.join(engine.entries()) or 'none: see medsam2-ft weights'}")
        print(NOTICE, flush=True)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=5, timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port.

    Raises:
        UserError: It is in use, not allowed, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: ports are 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delay (40 ms an answer) off only where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be used ({error.strerror or error}); another "
            "server may run there: choose another --port, 0 takes a free one"
        ) from error
    return listener

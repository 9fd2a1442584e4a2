"""`steersman view`: all reports, and a page of every training run, on a loopback address, read-only.

Only files that lie directly in a study's report folder are served, and pages made of a run's own files, and only to
requests that name a loopback host, so that a web page elsewhere cannot read them through the browser. Leaves out: the
look (`study.catalogue`, `study.report_run`).
"""

import errno
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer

from steersman.core.errors import UserError

HOST = "127.0.0.1"
PORT = 8765
TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml"}
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")
_HOSTS = ("127.0.0.1", "localhost")


def view(
    root: Path = typer.Option(Path("runs"), "--root", help="Folder of all runs."),
    port: int = typer.Option(PORT, "--port", min=0, max=65535, help="Port on this machine; 0 takes a free one."),
) -> None:
    """Show all reports and training runs in a browser, on this machine only."""
    if not root.is_dir():
        raise UserError("does not exist", where=str(root), cure="Run a study first: steersman study run rdpo --quick")
    with make_server(root, port) as server:
        found = {"report": len(reports(root)), "training run": len(runs(root))}
        what = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in found.items())
        print(f"{what} on http://{HOST}:{server.server_address[1]}/   (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


def reports(root: Path) -> dict[str, Path]:
    """The report folders under `root`, by the study's folder name."""
    found = sorted(root.glob("*/report/report.json"))
    return {file.parent.parent.name: file.parent for file in found if _NAME.fullmatch(file.parent.parent.name)}


def runs(root: Path) -> dict[str, Path]:
    """The folders of training runs under `root`, by their name; a folder with a report is a study's."""
    from steersman.study.report_run import run_folders

    known, home = reports(root), root.resolve()
    found = {k: f for k, f in run_folders(root).items() if k not in known and _NAME.fullmatch(k)}
    return {k: f for k, f in found.items() if f.resolve().is_relative_to(home) and _own(f)}


def _own(folder: Path) -> bool:
    """Whether the files that a page is made of lie in the folder themselves, not behind links."""
    return all(file.resolve().parent == folder.resolve() for file in folder.glob("*.json*"))


def index(root: Path) -> str:
    """The page that lists all reports and training runs; one that cannot be read is listed as such."""
    from steersman.store.provenance import source_hash
    from steersman.study.catalogue import Card, index_page
    from steersman.study.report_run import run_card
    from steersman.study.summary import read_report

    cards = []
    for name, folder in reports(root).items():
        try:
            r = read_report(folder / "report.json")
            # What was fresh when the report was made need not be so any more.
            stale = r["stale"] or r["made_by"]["source"] != source_hash()
            card = Card(
                r["title"], r["paper"], r["sentence"], r["created"], stale, f"{name}/index.html", r["counts"]
            )  # fmt: skip
        except (UserError, KeyError) as error:
            card = Card(name, "", f"its report cannot be read: {error}", "", True)
        cards.append(card)
    for name, folder in runs(root).items():
        try:
            cards.append(run_card(folder, f"{name}/index.html", source_hash()))
        except (UserError, KeyError) as error:
            cards.append(Card(name, "training run", f"its files cannot be read: {error}", "", True))
    return index_page(cards, "Studies and training runs" if runs(root) else "Studies")


def find(root: Path, path: str) -> Path | None:
    """The file that a request's path means, or None: ``/<study>/<file>`` and nothing else.

    Args:
        root: folder of all runs.
        path: the request's path, not yet decoded.
    """
    parts = unquote(urlsplit(path).path).split("/")
    if len(parts) != 3 or parts[0] or not all(_NAME.fullmatch(part) for part in parts[1:]):
        return None
    folder = reports(root).get(parts[1])
    if folder is None or Path(parts[2]).suffix not in TYPES:
        return None
    file = folder / parts[2]
    inside = file.resolve().parent == folder.resolve() and folder.resolve().is_relative_to(root.resolve())
    return file if inside and file.is_file() else None


def content(root: Path, path: str) -> tuple[bytes, str] | None:
    """What a request's path means and its type: the list, a file of a report, the page of a run; None = nothing.

    Raises:
        UserError: a file of the run cannot be read.
    """
    from steersman.study.report_run import run_page

    place = urlsplit(path).path
    if place == "/":
        return index(root).encode(), TYPES[".html"]
    file = find(root, path)
    if file is not None:
        return file.read_bytes(), TYPES[file.suffix]
    _, _, name = unquote(place).removesuffix("/index.html").rpartition("/")
    folder = runs(root).get(name) if unquote(place) == f"/{name}/index.html" else None
    return None if folder is None else (run_page(folder).encode(), TYPES[".html"])


def make_server(root: Path, port: int) -> ThreadingHTTPServer:
    """A server bound to the loopback address; the caller runs and closes it.

    Raises:
        UserError: the port is taken or not allowed.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "steersman"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            if self.headers.get("Host", "").rpartition(":")[0] not in _HOSTS and self.headers.get("Host") not in _HOSTS:
                return self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
            try:
                found = content(root, self.path)
            except (UserError, KeyError) as error:
                return self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "the run cannot be read", str(error))
            if found is None:
                return self.send_error(HTTPStatus.NOT_FOUND, "no such report")
            return self._send(*found, body)

        def _send(self, data: bytes, kind: str, body: bool) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: requests are of no interest."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(f"port {port} {why}", where="--port", cure="Choose another, or 0 for a free one.") from None

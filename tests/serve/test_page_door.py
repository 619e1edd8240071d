"""Who gets into the page, and what it is made of."""

import hashlib
import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from live import running
from pages import User, nifti

from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

TOKEN = "open sesame"
ICON = Path(__file__).parents[2] / "slicer/MedSAM2FT/Resources/Icons/MedSAM2FT.png"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    settings = Settings(
        work_dir=tmp_path_factory.mktemp("door"), token=TOKEN, max_upload_bytes=200_000
    )
    with running(FakeEngine(), settings, page=True) as number:
        yield number


class Browser:
    """Cookies, and an answer for every status."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar)
        )

    def get(self, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        data = urllib.parse.urlencode(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(self.base + path, data, {"Accept": "text/html", **headers})
        try:
            with self.opener.open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


PATHS = ["/ui/", "/ui/config", "/ui/gradio_api/info", "/ui/page-files/niivue.umd.js", "/"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_the_page_is_open_without_the_token(port: int, path: str) -> None:
    status, text = Browser(port).get(path)
    assert status == 401
    assert 'name="token"' in text
    assert Browser(port).get(path, Accept="*/*")[0] == 401
    assert Browser(port).get(path, Accept="*/*", Cookie="medsam2ft_page=x")[0] == 401


def test_the_form_lets_in_and_to_the_page_only(port: int) -> None:
    browser = Browser(port)
    assert browser.get("/ui/enter", {"token": "wrong"})[0] == 401
    assert not list(browser.jar)
    status, text = browser.get("/ui/enter", {"token": TOKEN})
    assert status == 200
    assert "gradio" in text
    (cookie,) = browser.jar
    assert TOKEN not in str(cookie.value)
    assert cookie.path == "/ui"
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    assert browser.get("/ui/config", Accept="*/*")[0] == 200
    assert browser.get("/api/v1/capabilities", Accept="*/*")[0] == 401


def test_scripts_send_the_token(port: int, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"401|token|Could not"):
        User(port, tmp_path)
    user = User(port, tmp_path, headers={"Authorization": f"Bearer {TOKEN}"})
    user.open("volume", nifti(tmp_path / "ct.nii.gz"))


def test_too_large_a_file_is_refused(port: int) -> None:
    browser = Browser(port)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
    fields = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "multipart/form-data; boundary=x"}
    for size, status in ((100_000, 200), (250_000, 413), (400_000, 413)):
        body = head + bytes(size) + b"\r\n--x--\r\n"
        assert browser.get("/ui/gradio_api/upload", body, **fields)[0] == status


@pytest.mark.parametrize("origin", ["http://evil.test", "http://127.0.0.1:1", "null"])
def test_another_page_may_not_use_this_one(port: int, origin: str) -> None:
    browser = Browser(port)
    browser.get("/ui/enter", {"token": TOKEN})
    assert browser.get("/ui/config", Origin=origin)[0] == 403
    assert browser.get("/ui/config", Origin=browser.base)[0] == 200
    assert browser.get("/ui/config", Host="evil.test")[0] == 400


def test_niivue_comes_unchanged_with_its_licence() -> None:
    files = resources.files("medsam2_ft.serve.ui").joinpath("static")
    licence = files.joinpath("niivue.LICENSE").read_text("utf-8")
    assert "BSD 2-Clause License" in licence
    assert hashlib.sha256(files.joinpath("niivue.umd.js").read_bytes()).hexdigest() in licence


def test_browsers_find_the_icon_of_the_slicer_module(port: int) -> None:
    """They ask for it by this name, and log an error where there is none."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/favicon.ico", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.read() == ICON.read_bytes()

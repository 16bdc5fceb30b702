"""A student in JupyterLab itself, in a real browser: from `make jupyter` through a chapter to its lab's full marks."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, Response, expect, sync_playwright

from cluster.api import Api
from cluster.workspace import Workspace
from course.chapters import chapters
from labs.catalog import LabFolder, facts, fill_in, lab_numbered
from labs.lifecycle import Course, finish
from tests import browser
from tests.system.conftest import eventually, kailab, pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

START_SECONDS = 60
START_IT = re.compile("Next: .*kailab up")
SLOW = 60_000  # ms; what waits for the cluster. All else gets Playwright's usual 30 s, or 5 s to be as expected.
# When the first result is drawn, in ms after the click that asks for it; by the page's own clock.
FIRST_RESULT = """panel => { window.kailabFirst = new Promise(tell => panel.addEventListener("click", click => {
  const clicked = performance.now(), seen = new MutationObserver(() => {
    if (!panel.querySelector(".kailab-check.kailab-pass, .kailab-check.kailab-fail")) return;
    seen.disconnect();
    requestAnimationFrame(() => tell(performance.now() - clicked));
  });
  seen.observe(panel, { childList: true, subtree: true });
}, { capture: true, once: true })) }"""


@pytest.fixture
def lab() -> LabFolder:
    return lab_numbered(1)


@pytest.fixture
def student(home: Path, workspace: Workspace, lab: LabFolder) -> Iterator[Workspace]:
    own = Workspace(home, workspace.cache)
    kubeconfig = own.kubeconfig.read_bytes()
    yield own
    own.kubeconfig.write_bytes(kubeconfig)
    with Course.opened(own) as course:
        finish(course, lab)


@pytest.fixture
def url(student: Workspace, tmp_path: Path) -> Iterator[str]:
    """JupyterLab as `make jupyter` starts it, with settings of the test's own; its address, with its token."""
    places = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **places, "IPYTHONDIR": str(tmp_path / "ipython"), "KAILAB_HOME": str(student.state),
           # `make jupyter` would make a second cluster, the test's own, should the one that is there not answer.
           "DOCKER_HOST": "unix:///nonexistent"}  # fmt: skip
    options = ["--no-browser", f"--ServerApp.port={_free_port()}", *(["--allow-root"] if os.geteuid() == 0 else [])]
    log = tmp_path / "jupyterlab.log"
    with log.open("w") as sink:
        server = subprocess.Popen([sys.executable, "-m", "course", *options], env=env, stdout=sink, stderr=sink)

    def address() -> str:
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {log.read_text()}")
        found = re.search(r"http://127\.0\.0\.1:\S+token=\w+", log.read_text())
        return found[0] if found else ""

    try:
        yield eventually(address, START_SECONDS)
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(workspace: Workspace, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a real Chromium. What it has in its console as an error fails the test."""
    errors: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} ({message.location.get('url', '')})")

    def answered(response: Response) -> None:
        if response.status >= 400:
            errors.append(f"HTTP {response.status} from {response.url}")

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.path())
        made = chromium.new_page(viewport={"width": 1280, "height": 1000})
        made.on("console", hear)
        made.on("pageerror", lambda error: errors.append(str(error)))
        made.on("response", answered)
        try:
            yield made
        finally:
            _picture(made, workspace, f"{request.node.name}")
            chromium.close()
    assert not errors, "\n".join(errors)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says something in the test's output, also when it passes."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")  # noqa: T201 - that is what it is for

    return say


@pytest.fixture
def shoot(page: Page, workspace: Workspace, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Takes a picture of what is on screen, for people to look at."""
    return lambda name: tell(f"screenshot: {_picture(page, workspace, name)}")


@dataclass(frozen=True)
class Notebook:
    """One notebook on the page, worked with as a person does."""

    page: Page
    file: str

    @property
    def tab(self) -> Locator:
        return self.page.get_by_role("tabpanel", name=self.file)

    def opened(self) -> Notebook:
        """Itself, once one can work with it; opening it is no change that one would have to save."""
        expect(self.tab).to_be_visible(timeout=SLOW)
        self.idle()
        tab = self.page.get_by_role("tab", name=self.file)
        expect(tab).not_to_have_class(re.compile("jp-mod-dirty"))
        return self

    def idle(self) -> None:
        """Wait until its kernel is there and has nothing to do. Before that, "Run All Cells" runs none."""
        bar = self.page.get_by_role("contentinfo")
        expect(bar.get_by_text(self.file, exact=True)).to_be_visible(timeout=SLOW)
        expect(bar.get_by_role("button", name=re.compile(r"^Python 3 .*Idle$"))).to_be_visible(timeout=SLOW)

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def run(self, begins: str, instead: str = "") -> Locator:
        """Run the cell that begins so, with another text in it where one is given; the cell."""
        line = self.page.get_by_role("textbox").filter(has_text=re.compile(rf"^\s*{re.escape(begins)}"))
        cell = self.tab.locator(".jp-CodeCell", has=line).first
        cell.get_by_role("textbox").click()
        if instead:
            self.page.keyboard.press("Control+A")
            self.page.keyboard.insert_text(instead)
        self.page.keyboard.press("Control+Enter")
        expect(cell.get_by_text("[*]:")).to_have_count(0, timeout=SLOW)
        return cell

    def add(self, text: str) -> None:
        """A new cell after the selected one, run."""
        self.tab.get_by_role("button", name=re.compile("^Insert a cell below")).first.click()
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Control+Enter")


def test_a_chapter_from_a_failed_check_to_a_pass_and_the_cluster_in_a_picture(
    url: str, page: Page, lab: LabFolder, student: Workspace, api: Api, shoot: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    page.goto(url)
    start = Notebook(page, "00_start.ipynb").opened()
    shoot("1-start-page")
    page.get_by_role("link", name=lab.title).click()
    file = next(chapter.name for chapter in chapters() if chapter.number == lab.number)
    chapter = Notebook(page, file).opened()
    chapter.run_all()
    panel = chapter.tab.get_by_role("region", name=f"Lab {lab.number}: {lab.title}")
    expect(panel.get_by_role("status")).to_have_text("Not checked yet.", timeout=SLOW)
    expect(chapter.tab.get_by_text("[*]:")).to_have_count(0, timeout=SLOW)
    chapter.idle()
    panel.scroll_into_view_if_needed()
    shoot("2-after-run-all")

    panel.evaluate(FIRST_RESULT)
    panel.get_by_role("button", name="Check everything").click()
    milliseconds = page.evaluate("window.kailabFirst")
    tell(f"the first result is drawn {milliseconds:.0f} ms after the click")
    assert milliseconds <= 1000  # as promised; 140 to 230 were seen, the latter on a machine with much else to do
    expect(panel.get_by_role("status")).to_contain_text("not yet right", timeout=SLOW)
    task = panel.get_by_role("region", name="Task 1")
    _is_as_in_the_terminal(task, lab, student)
    shoot("3-failed")

    # From here on this is done by keyboard alone.
    task.get_by_role("button", name="Check task 1").focus()
    page.keyboard.press("Tab")
    hint = task.get_by_role("button", name=re.compile(r"^Hint \(\d+ left\), task 1$"))
    expect(hint).to_be_focused()
    page.keyboard.press("Enter")
    known = [_words(hint.text) for hint in lab.spec.tasks[0].hints]
    expect(task.locator(".kailab-hint")).to_have_count(1)
    assert _words(task.locator(".kailab-hint").inner_text()) in known
    expect(hint).to_be_focused()
    shoot("4-hint")
    # Twice this letter deletes a cell in JupyterLab, but not while a button of ours has the keyboard.
    page.keyboard.press("d")
    page.keyboard.press("d")
    expect(hint).to_be_focused()

    for name in ("answers.yaml", "hello.yaml", "alone.yaml"):
        right = fill_in((lab.path / "solution" / name).read_text(), facts(lab.namespace))
        cell = chapter.run(f"%%manifest {name}", f"%%manifest {name}\n{right}")
        expect(cell.locator(".jp-OutputArea-output").first).to_contain_text("✓")
        assert (student.work / lab.namespace / name).read_text().strip() == right.strip()
    shoot("5-mended")

    everything = panel.get_by_role("button", name="Check everything")
    everything.focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_role("status")).to_have_text("Everything holds. Well done!", timeout=SLOW)
    expect(everything).to_be_focused()
    assert panel.get_by_role("progressbar", name="points").get_attribute("value") == "20"
    panel.scroll_into_view_if_needed()
    shoot("6-passed")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(panel.get_by_role("button", name="Show a solution")).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel.get_by_role("heading", name="hello.yaml")).to_be_visible()
    shoot("7-solution")

    page.get_by_role("tab", name=start.file).click()
    start.idle()
    start.run_all()
    view = start.tab.get_by_role("region", name="The cluster, live")
    expect(view.get_by_role("heading", name=re.compile(lab.namespace))).to_be_visible(timeout=SLOW)
    api.create(pod("newcomer", "import time; time.sleep(600)", node="cpu"), lab.namespace)
    newcomer = view.get_by_role("list", name="pods on cpu").get_by_role("listitem").filter(has_text="newcomer")
    expect(view.get_by_role("log")).to_contain_text("pod newcomer on cpu is Ready", timeout=SLOW)
    expect(newcomer).to_contain_text("newcomer Ready")
    view.scroll_into_view_if_needed()
    shoot("8-live-view")
    api.delete("Pod", "newcomer", lab.namespace)
    expect(newcomer).to_have_count(0, timeout=SLOW)


def test_without_a_cluster_the_notebook_says_what_to_start_and_goes_on_when_it_answers(
    url: str, page: Page, lab: LabFolder, student: Workspace, shoot: Callable[[str], None]
) -> None:
    page.goto(url)
    start = Notebook(page, "00_start.ipynb").opened()
    kubeconfig = student.kubeconfig.read_text()
    # As after the machine was switched off and on again: the file is there, nothing answers.
    student.kubeconfig.write_text(re.sub(r"server: \S+", f"server: https://127.0.0.1:{_free_port()}", kubeconfig))
    start.run_all()
    view = start.tab.get_by_role("region", name="The cluster, live")
    expect(view.get_by_role("alert")).to_contain_text(START_IT, timeout=SLOW)
    start.add(f"lab({lab.number})")
    panel = start.tab.get_by_role("region", name=f"Lab {lab.number}: {lab.title}")
    panel.get_by_role("button", name="Check everything").click()
    expect(panel.get_by_role("alert")).to_contain_text(START_IT)
    panel.scroll_into_view_if_needed()
    shoot("no-cluster")
    student.kubeconfig.write_text(kubeconfig)
    expect(view.get_by_role("heading", name="gpu-a")).to_be_visible(timeout=SLOW)
    expect(view.get_by_role("alert")).to_be_empty()


def _is_as_in_the_terminal(task: Locator, lab: LabFolder, student: Workspace) -> None:
    """Every failed check of the first task says on the page what the terminal says."""
    done = kailab("check", str(lab.number), "--task", lab.spec.tasks[0].id, "--json", KAILAB_HOME=str(student.state))
    found = [check for check in json.loads(done.stdout)["checks"] if check["task"] == lab.spec.tasks[0].id]
    assert {check["outcome"] for check in found} == {"fail"}
    for check in found:
        part = task.locator(".kailab-check", has_text=check["title"])
        expect(part.locator(".kailab-word")).to_have_text("not yet")
        said = [check["expected"], check["observed"], *check["evidence"], check["look_with"]]
        expect(part.locator("dl")).to_have_css("display", "grid")  # JupyterLab has other rules for lists in outputs
        expect(part.locator("dd")).to_have_text([text for text in said if text])


def _words(markdown: str) -> str:
    """A text without the marks of Markdown, and however its lines are broken."""
    return " ".join(markdown.replace("`", "").split())


def _picture(page: Page, workspace: Workspace, name: str) -> Path:
    path = workspace.state / "screenshots" / f"{name}.png"
    page.screenshot(path=path)
    return path


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

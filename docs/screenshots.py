"""Clicks and types through the driving page and the report in headless Chromium, and videos them.

    python docs/screenshots.py --workdir=runs/tiny

checks what the pages do under real clicks, keys and touches, wide and narrow, light and dark, and
writes docs/images/*.png; --whole=FOLDER writes all eight pictures in full length.
Needs `pip install -e '.[browser]'` and a Chromium: --browser names it, `apt-get install chromium`
brings one.
"""

import argparse
import contextlib
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import (  # pyright: ignore[reportMissingImports]
    Browser,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from wmpo_jax.report.page import write_report

IMAGES = Path(__file__).parent / "images"
SIZES = {"wide": (1200, 860), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
KEPT = {("wide", "light"), ("narrow", "dark")}  # as pictures of the documents
STARTUP_SECONDS = 600  # of a cold compilation on a busy machine
PATIENCE_MS = 30_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--whole", type=Path, help="folder for pictures of every size and scheme")
    flags = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    report = write_report(flags.workdir).resolve().as_uri()
    expect.set_options(timeout=PATIENCE_MS)
    with served(flags.workdir) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=flags.browser, args=["--no-sandbox"])
        for size, scheme in itertools.product(SIZES, SCHEMES):
            video(browser, url, "play", drive, size, scheme, flags.whole)
            video(browser, report, "report", read, size, scheme, flags.whole)
        browser.close()
    return 0


@contextlib.contextmanager
def served(workdir: Path) -> Iterator[str]:
    """The address of a driving page of `workdir`."""
    command = [sys.executable, "-u", "-m", "wmpo_jax.play", f"--workdir={workdir}", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("open http"):
                yield line.split()[1]
                return
        raise SystemExit("wmpo_jax.play ended without serving")
    finally:
        process.terminate()
        process.wait(timeout=STARTUP_SECONDS)


def video(
    browser: Browser,
    url: str,
    name: str,
    tour: Callable[[Page], None],
    size: str,
    scheme: str,
    whole: Path | None = None,
) -> None:
    """The tour in a window of one size and scheme; a narrow one is touched."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # pyright: ignore[reportArgumentType]
        has_touch=size == "narrow",
    )
    page = context.new_page()
    complaints = listen(page, url)
    page.goto(url)
    tour(page)
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, f"{name}, {size}, {scheme}: {overflow} px wider than the window"
    assert complaints == [], f"{name}, {size}, {scheme}: {complaints}"
    if (size, scheme) in KEPT:
        page.screenshot(path=IMAGES / f"{name}_{size}.png", full_page=name == "play")
    if whole:
        page.screenshot(path=whole / f"{name}_{size}_{scheme}.png", full_page=True)
    context.close()
    print(f"{name}, {size}, {scheme}: as it should be", flush=True)


def listen(page: Page, url: str) -> list[str]:
    """A list that fills with errors of the page and with what it asks of other hosts."""
    complaints: list[str] = []

    def heard(line: ConsoleMessage) -> None:
        # The refusal that `drive` provokes is logged by the browser as a failed resource.
        if line.type == "error" and "400" not in line.text:
            complaints.append(line.text)

    def asked(request: Request) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            complaints.append(f"asked for {request.url}")

    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", heard)
    page.on("request", asked)
    return complaints


def drive(page: Page) -> None:
    """Keys, buttons, stick, policies, starts and errors of the driving page."""
    steps = page.locator("#steps")
    expect(page.locator("#goal")).not_to_be_empty()
    page.keyboard.press("ArrowRight")
    expect(steps).to_have_text("4")
    expect(page.locator("#error-chart polyline")).to_have_attribute("points", page_points(4))
    page.locator("#step").click()
    expect(steps).to_have_text("8")
    page.locator("#reset").click()
    expect(steps).to_have_text("0")
    hold_stick(page)
    page.keyboard.press("r")
    expect(steps).to_have_text("0")
    page.locator("#number").fill("99999999")
    page.locator("#number").press("Enter")
    expect(page.locator("#error")).to_contain_text("There is no start")
    page.locator("#number").fill("5")
    page.locator("#number").press("Enter")
    expect(page.locator("#error")).to_be_empty()
    policy = "wmpo" if page.locator("#real-driver option[value=wmpo]").count() else "base"
    page.locator("#real-driver").select_option(policy)
    page.locator("#play").click()
    expect(steps).to_have_text(re.compile(r"^(1[2-9]|[2-9]\d|\d{3,})$"))
    page.keyboard.press("p")
    expect(page.locator("#play")).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(2000)  # the chunk under way ends
    expect(page.locator("#imagined-ms")).to_contain_text("ms")


def page_points(count: int) -> re.Pattern[str]:
    """A polyline of so many points."""
    return re.compile(rf"^(\S+,\S+ ?){{{count}}}$")


def hold_stick(page: Page) -> None:
    """Pulls the stick aside until worlds have moved, and lets go."""
    box = page.locator("#stick").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y - 20)
    expect(page.locator("#steps")).not_to_have_text("0")
    page.mouse.up()
    expect(page.locator("#knob")).to_have_css("transform", "matrix(1, 0, 0, 1, 0, 0)")


def read(page: Page) -> None:
    """The report: everything that opens is opened once."""
    expect(page.locator("#result")).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
        summary.click()
    page.evaluate("scrollTo(0, 0)")


if __name__ == "__main__":
    sys.exit(main())

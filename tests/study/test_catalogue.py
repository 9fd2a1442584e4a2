"""The list of studies: cards that can be searched."""

import shutil

import pytest

from steersman.study.catalogue import Card, index_page, render_index

HOSTILE = "</script><script>alert(1)</script>"
CARDS = (
    Card(
        "Robust preference optimisation",
        "ICML 2024",
        "Chance.",
        "2026-02-03",
        False,
        "rdpo/index.html",
        {"supported": 2},
    ),
    Card("Filtered rollouts", "2024", "Helped.", "2026-02-01", True, "pf/index.html", {"contradicted": 1}),
    Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE, False),
)


def test_cards_show_verdicts_and_state():
    made = index_page(CARDS)
    assert made.count('class="card"') == 3
    assert "2 supported" in made
    assert ">stale<" in made
    assert ">fresh<" in made
    assert ">no report<" in made
    assert "<script>alert" not in made
    assert 'href="rdpo/index.html"' in made


def test_no_studies(tmp_path):
    path = render_index((), tmp_path)
    assert "No studies yet." in path.read_text("utf-8")
    assert "<input" not in path.read_text("utf-8")


@pytest.mark.browser
def test_search(tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=[*flags, "--disable-component-update", "--disable-sync"]
        )
        view = browser.new_page(viewport={"width": 390, "height": 800})
        trouble = []
        view.on("pageerror", lambda e: trouble.append(str(e)))
        view.goto(render_index(CARDS, tmp_path).as_uri())
        view.fill("input[type=search]", "STALE roll")
        assert view.locator(".card:visible h2").all_inner_texts() == ["Filtered rollouts"]
        view.fill("input[type=search]", "nowhere")
        assert view.locator(".nothing").is_visible()
        view.fill("input[type=search]", "")
        assert view.locator(".card:visible").count() == 3
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not trouble
        browser.close()

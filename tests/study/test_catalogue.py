"""The list of studies: cards that can be searched."""

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
def test_search(open_page, tmp_path):
    view, trouble = open_page(render_index(CARDS, tmp_path).as_uri(), 390)
    view.fill("input[type=search]", "STALE roll")
    assert view.locator(".card:visible h2").all_inner_texts() == ["Filtered rollouts"]
    view.fill("input[type=search]", "nowhere")
    assert view.locator(".nothing").is_visible()
    view.fill("input[type=search]", "")
    assert view.locator(".card:visible").count() == 3
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not trouble
    view.close()

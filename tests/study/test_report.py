"""The report of a study: complete, safe with any text, honest about holes; and, in a browser, drawn and usable."""

import importlib.util
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from steersman.core.errors import UserError
from steersman.page.number import Estimate
from steersman.study.report import ClaimRow, Difference, page, render

_spec = importlib.util.spec_from_file_location("report_example", Path(__file__).with_name("report_example.py"))
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)
ARMS, HOSTILE, claims, report, sample, words = (
    example.ARMS, example.HOSTILE, example.claims, example.report, example.sample, example.words,
)  # fmt: skip

NAN = math.nan
BARS = {
    "id": "X",
    "text": "t",
    "paper": "",
    "n_seeds": 5,
    "reference": 0.0,
    "margin": None,
    "test": "",
    "p_value": None,
    "p_corrected": None,
}


class _Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.depth = [], "", 0
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.depth += name in ("script", "style")

    def handle_endtag(self, name):
        self.depth -= name in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self.depth else data + " "


@pytest.fixture(scope="module")
def full():
    return page(report())


def test_the_page_has_its_parts_in_order(full):
    heads = re.findall(r"<h2>([^<]+)</h2>", full)
    assert heads == ["Verdicts", "Curves", "Arms against each other", "Samples", "How to repeat it"]
    seen = _Reader(full).text
    for claim in claims():
        assert claim.text in seen
        assert claim.reason in seen
    for said in ("+0.21", "log-odds", "[+0.09, +0.33]", "5 seeds", "0.25 after correction, 0.0625 before", "95 %"):
        assert said in seen
    for said in (*ARMS, "1,204,224", "118.4", "torch 2.13.0", "2 cores", "a commercial model", report().command):
        assert said in seen
    assert full.count('class="plot"') == 4
    assert "2 supported" in seen
    assert "1 contradicted" in seen


def test_nothing_on_the_page_is_nan_or_fetched(full):
    seen = _Reader(full).text
    assert not re.search(r"\b(nan|None|null|inf|False|True)\b", seen)
    assert not re.search(r'<(link|script|img|iframe)[^>]+(src|href)="(?!data:)', full)


def test_hostile_text_everywhere_stays_text():
    claim = ClaimRow(HOSTILE, HOSTILE, HOSTILE, Estimate(1, 0, 2, HOSTILE), 2, 0.0, 0.1, "supported", HOSTILE, HOSTILE,
                     0.1, 0.2, HOSTILE)  # fmt: skip
    changed = report(
        title=HOSTILE, sentence=HOSTILE, study=HOSTILE, mode=HOSTILE, created=HOSTILE, claims=(claim,), command=HOSTILE,
        versions={HOSTILE: HOSTILE}, machine=HOSTILE, equal=HOSTILE, panels=(),
        differences=(Difference(HOSTILE, "dpo", HOSTILE, Estimate(1, 0, 2)),),
        samples=(sample(HOSTILE, 1, (HOSTILE,) * 8),),
    )  # fmt: skip
    seen = _Reader(page(changed))
    assert seen.tags.count("script") == 2  # the samples' data and the page's own
    assert "img" not in seen.tags
    assert seen.text.count(HOSTILE) > 12


def test_missing_values_are_a_dash_with_a_reason_and_never_zero(full):
    row = re.search(r"<tr[^>]*><th[^>]*><div class=\"claim\"><b>B4</b>.*?</tr>", full)[0]
    assert re.search(r'data-label="Here"[^>]*>–<', row)
    assert "all runs of this cell stopped" in row
    assert '<svg viewBox="0 0 260' not in row
    assert "–: not measured." in full


def test_a_report_of_nothing_says_so_in_every_part():
    empty = report(claims=(), panels=(), differences=(), cost=(), samples=(), streams=(), not_tested=(), downloads=(),
                   method_page="", versions={}, machine="")  # fmt: skip
    seen = _Reader(page(empty)).text
    for said in ("states no claims", "No curves", "No differences", "No cost", "No samples", "Nothing that the paper"):
        assert said in seen


def test_stale_reports_say_so(full):
    assert "stale" not in _Reader(full).text
    assert "stale: made by other code" in _Reader(page(report(stale=True))).text


def test_one_baseline_gives_a_table_with_intervals_and_many_give_a_matrix(full):
    assert "row minus column" in full
    e = Estimate(0.2, 0.1, 0.3)
    one = page(report(differences=tuple(Difference(a, "dpo", "gold", e) for a in ("cdpo", "rdpo"))))
    assert "gold: arm minus dpo" in one
    assert "row minus column" not in one


def test_the_matrix_reads_both_ways_and_marks_intervals_without_zero():
    rows = (
        Difference("rdpo", "dpo", "m", Estimate(0.2, 0.1, 0.3)),
        Difference("ipo", "rdpo", "m", Estimate(NAN, NAN, NAN)),
    )
    made = page(report(differences=rows))
    cells = re.findall(r"<td([^>]*)>([^<]+)(?:<small>([^<]+)</small>)?</td>", made[made.index("row minus") :])
    shown = [(value, interval) for _, value, interval in cells[:9]]
    assert shown[:3] == [("·", ""), ("−0.20", "[−0.30, −0.10]"), ("–", "")]
    assert shown[3:5] == [("+0.20", "[+0.10, +0.30]"), ("·", "")]
    assert [("clear" in a) for a, *_ in cells[:4]] == [False, True, False, True]


def test_axis_numbers_stand_below_the_last_drawn_claim_of_each_unit(full):
    rows = re.findall(r'<td class="figure"[^>]*>(.*?)</td>', full)
    assert [("<text" in r) for r in rows] == [True, True, False, False, True, False, False]


def test_claims_are_checked():
    with pytest.raises(ValueError, match="not one of"):
        ClaimRow(**BARS, estimate=None, verdict="proved", reason="r", equal="")
    with pytest.raises(ValueError, match="needs a reason"):
        ClaimRow(**BARS, estimate=Estimate(NAN, NAN, NAN), verdict="inconclusive", reason="", equal="")


def test_render_writes_one_file_whole_and_replaces_it(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    path = render(report(), tmp_path)
    assert path == tmp_path / "index.html"
    render(report(title="second"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "result.json"]
    assert "<title>second</title>" in path.read_text("utf-8")


@pytest.mark.parametrize("name", ["missing.json", "../result.json", ""])
def test_a_download_must_lie_in_the_folder(tmp_path, name):
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match="no file in"):
        render(report(downloads=(("data", name),)), folder)
    assert not (folder / "index.html").exists()


def test_links_with_another_scheme_are_refused():
    with pytest.raises(UserError):
        page(report(method_page="javascript:alert(1)"))


# In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "result.json").write_text("{}")
    return render(report(), folder).as_uri()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_report_in_a_browser(open_page, address, width, scheme):
    view, trouble = open_page(address, width, scheme)
    assert view.locator("section#verdicts tbody tr:not(.more)").count() == len(claims())
    assert view.locator("svg.plot .mean").count() >= 17
    for plot in view.locator("svg.plot").all():
        box = plot.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 150
    assert view.locator(".tokens .t").count() == 2 * len(words())
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    hidden = [
        x for x in view.locator(".scroll").all() if x.evaluate("e => e.getBoundingClientRect().right > innerWidth")
    ]
    assert not hidden
    paper, ink = view.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    bright = [sum(map(int, re.findall(r"\d+", c)[:3])) for c in (paper, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")
    assert not trouble
    view.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_names_at_the_ends_of_lines_do_not_overlap_or_leave_the_page(open_page, address, width):
    view, _ = open_page(address, width)
    for plot in view.locator("svg.plot").all():
        boxes = sorted((b.bounding_box() for b in plot.locator(".name").all()), key=lambda b: b["y"])
        assert boxes
        assert all(b["x"] + b["width"] <= width for b in boxes)
        baselines = [b["y"] for b in boxes]
        size = plot.locator(".name").first.evaluate(
            "e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a"
        )
        assert all(b - a >= size for a, b in itertools.pairwise(baselines))
    view.close()


@pytest.mark.browser
def test_keys_choose_samples_and_streams_and_walk_over_tokens(open_page, address):
    view, trouble = open_page(address)
    colours = "() => [...document.querySelectorAll('.tokens .t')].map(e => getComputedStyle(e).backgroundColor)"
    first = view.evaluate(colours)
    assert len(set(first)) > 5
    view.keyboard.press("2")
    assert view.locator(".pick [aria-checked=true]").inner_text().endswith("entropy")
    assert view.evaluate(colours) != first
    view.keyboard.press("9")
    assert view.locator(".pick [aria-checked=true]").inner_text().endswith("entropy")
    view.keyboard.press("Shift+ArrowRight")
    view.keyboard.press("Shift+ArrowRight")
    assert view.locator(".tip").is_visible()
    assert "position 1, prompt" in view.locator(".tip").inner_text()
    view.keyboard.press("Escape")
    assert view.locator(".tip").is_hidden()
    view.keyboard.press("ArrowLeft")
    assert view.locator(".where").inner_text() == "1 of 3"
    view.keyboard.press("ArrowRight")
    assert view.locator(".where").inner_text() == "2 of 3"
    assert view.locator(".tokens .t").count() == 800
    view.locator(".fold").first.click()
    assert view.locator(".tokens .t").count() == 4000
    view.keyboard.press("ArrowRight")
    shown = view.locator(".tokens .text").first.inner_text()
    assert HOSTILE.replace(" ", "") in shown.replace(" ", "")
    assert "U+202E" in shown
    assert "→" in shown
    assert "∅" in shown
    assert view.locator(".tokens .text").first.evaluate("e => e.matches(':dir(rtl)')")
    assert not trouble
    view.close()


@pytest.mark.browser
def test_hover_shows_every_stream_and_both_arms(open_page, address):
    view, trouble = open_page(address)
    token = view.locator(".tokens .view").nth(1).locator(".t").nth(20)
    token.scroll_into_view_if_needed()
    view.wait_for_timeout(100)
    token.hover()
    assert view.locator(".tip").is_visible()
    said = view.locator(".tip").inner_text()
    for part in ("position 20", "response token 15", "log-ratio (nats)", "entropy (nats)", "weight", "dropped", "rdpo"):
        assert part in said
    expected = report().samples[0].views[1].streams["log-ratio"][20]
    number = re.search(r"log-ratio \(nats\)\s+\S+\s+(\S+)", said)[1].replace("−", "-")
    assert float(number) == pytest.approx(expected, abs=5e-4)
    prompt = view.locator(".tokens .t").first
    prompt.hover()
    assert re.search(r"entropy \(nats\)\s+–\n", view.locator(".tip").inner_text())  # for both, so it is said once
    assert not trouble
    view.close()


@pytest.mark.browser
def test_a_figure_and_a_verdict_answer_the_pointer(open_page, address):
    view, trouble = open_page(address)
    view.add_style_tag(content="* { scroll-behavior: auto !important }")
    figure = view.locator("svg.plot").first
    figure.scroll_into_view_if_needed()
    view.wait_for_timeout(100)
    figure.hover(position={"x": 200, "y": 100})
    assert view.locator(".tip").is_visible()
    said = view.locator(".tip").inner_text()
    assert "share of flipped labels" in said
    assert all(arm in said for arm in ARMS)
    verdict = view.locator("button.verdict").nth(2)
    details = view.locator("tr.more").nth(2)
    assert details.is_hidden()
    verdict.click()
    assert "0.25 after correction" in details.inner_text()
    view.keyboard.press("ArrowRight")  # the focus lies in a table that has nothing to scroll
    assert view.locator(".where").inner_text() == "2 of 3"
    view.locator("button.theme").click()
    assert view.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    assert not trouble
    view.close()


@pytest.mark.browser
def test_taps_show_what_hover_shows(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    view = context.new_page()
    view.goto(address)
    view.add_style_tag(content="* { scroll-behavior: auto !important }")
    tip = view.locator(".tip")
    shows = {
        ".view:nth-child(1) .t >> nth=20": "position 20",
        ".view:nth-child(2) .t >> nth=30": "position 30",
        "svg.plot >> nth=0": "share of flipped labels",
    }
    for target, said in shows.items():
        view.locator(target).scroll_into_view_if_needed()
        view.wait_for_timeout(100)
        view.locator(target).tap()
        assert tip.is_visible()
        assert said in tip.inner_text()
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    view.locator("h2:visible").first.dispatch_event("pointerdown")
    assert tip.is_hidden()
    context.close()


@pytest.mark.browser
def test_print_is_light_and_complete(open_page, address):
    view, trouble = open_page(address, 690, "dark")
    view.emulate_media(media="print")
    assert view.locator("tr.more").first.is_visible()
    assert view.locator("button.theme").is_hidden()
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not trouble
    view.close()

"""The page that lists all studies: one card each, and a search box.

Leaves out: finding studies and their reports (the caller gives plain data), and serving the page. Source: none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steersman.page.html import Html, link, shell, tag
from steersman.store.files import write_text
from steersman.study.report import Verdict, tally


@dataclass(frozen=True, slots=True)
class Card:
    """One study in the list: what it is, what came out, and whether its runs are up to date.

    Args:
        name: title of the study; paper: its source; sentence: result in words.
        verdicts: verdict to number of claims; date: as text; stale: see `Report`; href: link to its report, or "".
    """

    name: str
    paper: str
    sentence: str
    date: str
    stale: bool
    href: str = ""
    verdicts: Mapping[Verdict, int] = field(default_factory=dict)


def index_page(cards: Sequence[Card], title: str = "Studies") -> Html:
    """The list of studies (and of what else has cards) as one HTML document: cards and a search box.

    Edge cases: no cards says so; a study without a report is shown without a link.
    """
    search = tag("input", type="search", placeholder="Search", aria_label="search")
    items = [_card(card) for card in cards]
    nothing = tag("p", "Nothing matches.", class_="empty nothing", hidden=True)
    body = (
        [search, tag("ul", *items, class_="cards"), nothing] if items else [tag("p", "No studies yet.", class_="empty")]
    )
    return shell(title, tag("h1", title), *body)


def _card(card: Card) -> Html:
    word = "no report" if not card.href else "stale" if card.stale else "fresh"
    state = tag("span", word, class_="stale" if word == "stale" else None)
    words = " ".join([card.name, card.paper, card.sentence, *card.verdicts, word])
    return tag(
        "li",
        tag("h2", link(card.name, card.href) if card.href else card.name),
        tag("p", card.paper, class_="meta"),
        tag("p", card.sentence),
        tally(card.verdicts),
        tag("p", tag("span", card.date), state, class_="meta"),
        class_="card",
        data_text=words.lower(),
    )


def render_index(cards: Sequence[Card], folder: Path) -> Path:
    """Write `index_page` as ``index.html`` in `folder`, atomically, and return its path."""
    path = folder / "index.html"
    write_text(path, index_page(cards))
    return path

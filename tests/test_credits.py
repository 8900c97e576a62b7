"""Everyone whose licence asks for it is credited in one place."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CREDITS = (ROOT / "CREDITS.md").read_text(encoding="utf-8")
CARDS = sorted((ROOT / "src" / "pellucid" / "weights").glob("*/*/README.md"))
LINE = re.compile(
    r"- \d+ pictures?(?: by (?P<author>.*))?, (?P<licence>[^:]*?): (?P<source>.*?)(?P<addresses>, http.*)?$"
)
ASKS = re.compile(r"CC-BY|MIT|Apache|GPL|BSD|OFL")


def owed(card: Path) -> list[re.Match[str]]:
    """Credit lines of a card whose licence asks to be named."""
    lines = card.read_text(encoding="utf-8").partition("\n## Credits\n")[2].splitlines()
    found = [line for line in lines if line.startswith("- ")]
    read = [LINE.match(line) for line in found]
    assert None not in read, [line for line, match in zip(found, read, strict=True) if match is None]
    return [match for match in read if match and ASKS.search(match["licence"])]


def test_the_cards_are_read() -> None:
    assert CARDS
    assert any(owed(card) for card in CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: str(card.parent.parent.name))
def test_every_source_and_author_of_a_card_is_credited(card: Path) -> None:
    for match in owed(card):
        source = match["source"].partition(" images/")[0]
        assert source in CREDITS, f"{source} is not in CREDITS.md"
        assert match["author"].partition(", CC BY")[0] in CREDITS, f"{match['author']} is not in CREDITS.md"
        for address in re.findall(r"https?://[^\s,]+", match["addresses"] or ""):
            assert address in CREDITS, f"{address} is not in CREDITS.md"


@pytest.mark.parametrize(
    "line",
    [
        "EmojiOne 2.x artwork | EmojiOne | [CC BY 4.0]",
        "Noto Animated Emoji; rendered to frames | Google | [CC BY 4.0]",
        "COCO captions, val2017; words only, for word vectors | COCO Consortium | [CC BY 4.0]",
        "Copyright (c) 2014 Mu-An Chiou, 2015 BEEVA Labs, MIT",
    ],
)
def test_what_no_line_of_a_card_says_is_credited_too(line: str) -> None:
    assert line in CREDITS


def test_credits_go_with_the_wheel_and_name_no_place_of_a_machine() -> None:
    assert '"CREDITS.md"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("license-files")[2]
    assert not re.search(r"(^|[\s(`])(/work|/home|/tmp)", CREDITS)

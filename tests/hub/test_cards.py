import pytest

from pellucid.errors import ConfigError
from pellucid.hub.cards import Figure, credit_lines, model_card

GIVEN = {
    "summary": "Takes reflections out.",
    "data": "743 photographs.",
    "credits": "- 58 pictures by Microsoft, MIT",
    "recipe": "small: `pellucid train recipes/toy/small.toml`",
    "hardware": "two CPU cores",
    "minutes": 38.6,
    "figures": [
        Figure("real pairs, disk", "PSNR dB", 22.716, 22.098, 25.18),
        Figure("real pairs, disk", "SSIM", 0.8, 0.7662),
    ],
    "seeds": 1,
    "limits": "Thick glass.",
}


def test_the_card_says_it_all():
    card = model_card("toy/small", **GIVEN)
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# toy/small",
        "## Data and licence",
        "## Recipe",
        "## Hardware and time",
        "## Figures",
        "## What it cannot do",
        "## Credits",
    ]
    assert "| real pairs, disk | PSNR dB | 22.10 | 22.72 | 25.18 |" in card
    assert "| real pairs, disk | SSIM | 0.766 | 0.800 |  |" in card
    assert "two CPU cores; 39 minutes" in card
    assert "no spread is known" in card


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_no_section_may_be_missing(name):
    empty = [] if name == "figures" else 0 if name in ("minutes", "seeds") else "  "
    with pytest.raises(ConfigError, match=f"lacks {name}"):
        model_card("toy/small", **GIVEN | {name: empty})


def test_spread_is_shown_when_known():
    figures = [Figure("a", "PSNR dB", 22.7, 22.1, spread=0.044)]
    card = model_card("toy/small", **GIVEN | {"figures": figures, "seeds": 3})
    assert "22.70 ± 0.04" in card
    assert "over 3 training runs" in card


def test_credits_join_what_has_one_author_and_source():
    rows = [
        {"file": "a", "author": "Ann", "licence": "CC-BY-2.0", "source": "wiki", "url": "https://example.org/1"},
        {"file": "b", "author": "Ann", "licence": "CC-BY-4.0", "source": "wiki"},
        *(
            {"file": str(n), "author": "Bo\nCo", "license": "MIT", "source": "set", "url": f"https://e.org/{n}"}
            for n in range(9)
        ),
        {"file": "c", "license": "CC0-1.0", "source": "set"},
    ]
    assert credit_lines(rows).splitlines() == [
        "- 1 picture, CC0-1.0: set",
        "- 9 pictures by Bo Co, MIT: set",
        "- 1 picture by Ann, CC-BY-2.0: wiki, https://example.org/1",
        "- 1 picture by Ann, CC-BY-4.0: wiki",
    ]


def test_a_picture_without_licence_is_not_credited_but_refused():
    with pytest.raises(ConfigError, match=r"'x\.jpg' names no licence"):
        credit_lines([{"file": "x.jpg", "author": "Ann"}])

"""The user study: what a participant's page holds and hides, and what becomes of the answers."""

import base64
import io
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import InputError
from pellucid.layer_animate.study import Question, key_path, read_questions, tally, wilson, write_study


def clip(value, frames=5, size=8):
    made = torch.full((frames, 4, size, size), value, dtype=torch.uint8)
    made[:, 0] = torch.arange(frames, dtype=torch.uint8)[:, None, None]
    return made


def page_data(page):
    text = page.read_text(encoding="utf-8")
    start = text.index('id="study">') + len('id="study">')
    return json.loads(text[start : text.index("</script>", start)])


@pytest.fixture
def study(tmp_path):
    page = tmp_path / "study.html"
    questions = [Question(f"prompt {n}", {"ours": clip(200), "theirs": clip(100), "third": clip(50)}) for n in range(2)]
    write_study(questions, page, seed=3, fps=8)
    return page


def answers(page, ranks, *, who="Ann", join=",", name="answers.csv", study_id=None):
    """What the page would download: ``ranks`` holds candidate -> rank for each question."""
    key = json.loads(key_path(page).read_text())
    lines = [join.join(("study", "participant", "question", "prompt", "clip", "position", "rank", "seconds"))]
    for (question, said), wanted in zip(key["questions"].items(), ranks, strict=False):
        for place, (shown, candidate) in enumerate(said["clips"].items()):
            if candidate in wanted:
                row = (study_id or key["study"], who, question, "words", shown, place, wanted[candidate], 2.5)
                lines.append(join.join(str(cell) for cell in row))
    path = page.parent / name
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    return path


def test_the_page_tells_no_candidate_and_needs_no_network(study):
    text = study.read_text(encoding="utf-8")
    assert not any(name in text for name in ("ours", "theirs", "third"))
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert "default-src 'none'" in text
    assert "__STUDY__" not in text
    key = json.loads(key_path(study).read_text())
    data = page_data(study)
    assert data["id"] == key["study"]
    for question in data["questions"]:
        shown = [each["id"] for each in question["clips"]]
        assert set(shown) == set(key["questions"][question["id"]]["clips"])
        assert shown == sorted(shown)  # the order in the file follows from names that tell nothing
    orders = {tuple(said["clips"][name] for name in sorted(said["clips"])) for said in key["questions"].values()}
    assert orders  # candidates in the order they stand in the file
    assert key["questions"]["q1"]["clips"].keys() != key["questions"]["q2"]["clips"].keys()


def test_a_sheet_holds_every_frame_exactly(tmp_path):
    one = torch.randint(0, 256, (5, 4, 6, 9), dtype=torch.uint8)
    one[:, 3].clamp_(min=1)  # colour under alpha 0 may be lost
    write_study([Question("p", {"a": one, "b": one.float() / 255})], tmp_path / "s.html", seed=0)
    for shown in page_data(tmp_path / "s.html")["questions"][0]["clips"]:
        assert (shown["frames"], shown["columns"], shown["width"], shown["height"]) == (5, 3, 9, 6)
        data = base64.b64decode(shown["sheet"].partition(",")[2])
        sheet = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
        for frame in range(5):
            top, left = frame // 3 * 6, frame % 3 * 9
            assert np.array_equal(sheet[top : top + 6, left : left + 9], one[frame].permute(1, 2, 0).numpy())


def test_no_prompt_can_end_the_script_it_stands_in(tmp_path):
    nasty = "</script><script>alert(1)</script> & <!--"
    write_study([Question(nasty, {"a": clip(1), "b": clip(2)})], tmp_path / "s.html", title=nasty)
    assert "alert(1)</script>" not in (tmp_path / "s.html").read_text()
    assert page_data(tmp_path / "s.html")["questions"][0]["prompt"] == nasty


def test_a_study_is_not_written_over_another_nor_without_a_choice(study):
    two = [Question("p", {"a": clip(1), "b": clip(2)})]
    with pytest.raises(InputError):
        write_study(two, study)
    write_study(two, study, overwrite=True)
    with pytest.raises(InputError, match="two or more"):
        write_study([Question("p", {"a": clip(1)})], study, overwrite=True)
    with pytest.raises(InputError, match=r"\.html"):
        write_study(two, study.with_suffix(".txt"))
    with pytest.raises(InputError, match="too large"):
        write_study([Question("p", {"a": torch.zeros(1, 4, 1, 16384), "b": clip(2)})], study.with_name("x.html"))
    assert not study.with_name("x.html").exists()


def test_first_places_are_counted(study):
    ann = answers(study, [{"ours": 1, "theirs": 2, "third": 3}, {"ours": 2, "theirs": 1, "third": 3}])
    bob = answers(study, [{"ours": 1, "theirs": 3, "third": 2}], who="Bob", join=";", name="bob.csv")
    rows = tally(key_path(study), [ann, bob])
    found = {row["system"]: row for row in rows if "mean rank" in row}
    assert list(found) == ["ours", "theirs", "third"]
    assert found["ours"]["first %"] == pytest.approx(200 / 3)
    assert found["theirs"]["mean rank"] == pytest.approx(2.0)
    assert (found["ours"]["answers"], found["ours"]["participants"]) == (3, 2)
    assert (found["ours"]["from"] / 100, found["ours"]["to"] / 100) == pytest.approx(wilson(2, 3))
    before = {row["system"]: row for row in rows if "before ours %" in row}
    assert before["ours"]["before third %"] == 100.0
    assert before["theirs"]["before ours %"] == pytest.approx(100 / 3)
    assert before["theirs"]["before theirs %"] is None
    assert [row["first %"] for row in rows if "paper" in row["system"]] == [10.34, 6.91, 82.75]


def test_incomplete_answers_are_named_and_left_out(study, caplog):
    half = answers(study, [{"ours": 1, "theirs": 2}, {"ours": 1, "theirs": 1, "third": 2}])
    with pytest.raises(InputError, match="no complete answer"):
        tally(key_path(study), [half])
    whole = answers(study, [{"ours": 3, "theirs": 2, "third": 1}], name="whole.csv")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rows = tally(key_path(study), [half, whole])
    assert caplog.text.count("not complete") == 2
    assert rows[0]["system"] == "third"
    assert rows[0]["answers"] == 1


def test_the_later_of_two_answers_counts(study, caplog):
    first = answers(study, [{"ours": 1, "theirs": 2, "third": 3}])
    again = answers(study, [{"ours": 3, "theirs": 2, "third": 1}], name="again.csv")
    with caplog.at_level(logging.WARNING):
        rows = tally(key_path(study), [first, again])
    assert (rows[0]["system"], rows[0]["answers"]) == ("third", 1)
    assert "Ann answers q1 again" in caplog.text


def test_answers_of_another_study_and_other_files_are_refused(study, tmp_path):
    with pytest.raises(InputError, match="'other'"):
        tally(key_path(study), [answers(study, [{"ours": 1, "theirs": 2, "third": 3}], study_id="other")])
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="column 'study'"):
        tally(key_path(study), [tmp_path / "table.csv"])
    with pytest.raises(InputError, match="not the key"):
        tally(study, [])
    with pytest.raises(InputError, match="cannot be read"):
        tally(key_path(study), [tmp_path / "gone.csv"])


def test_the_interval_is_wilsons():
    low, high = wilson(8275, 10000)
    assert (low, high) == (pytest.approx(0.8200, abs=1e-3), pytest.approx(0.8348, abs=1e-3))
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_clips_of_one_name_in_several_folders_make_a_question(tmp_path, caplog):
    for who, names in {"ours": ("cat", "dog"), "theirs": ("cat", "dog", "cow")}.items():
        for name in names:
            (tmp_path / who / name).mkdir(parents=True)
            for frame in range(3):
                Image.new("RGBA", (8, 6), (frame, 9, 9, 200)).save(tmp_path / who / name / f"{frame:04}.png")
    (tmp_path / "ours" / "cat.txt").write_text("a cat, jumping\n")
    with caplog.at_level(logging.WARNING):
        questions, _ = read_questions({"us": tmp_path / "ours", "them": tmp_path / "theirs"})
    assert [question.prompt for question in questions] == ["a cat, jumping", "dog"]
    assert questions[0].clips["us"].shape == (3, 4, 6, 8)
    assert questions[0].clips.keys() == {"us", "them"}
    assert "first cow" in caplog.text
    assert len(read_questions({"us": tmp_path / "ours", "them": tmp_path / "theirs"}, limit=1)[0]) == 1
    (tmp_path / "ours" / "dog").rename(tmp_path / "ours" / "pig")
    (tmp_path / "ours" / "cat").rename(tmp_path / "ours" / "hen")
    with pytest.raises(InputError, match="share no clip"):
        read_questions({"us": tmp_path / "ours", "them": tmp_path / "theirs"})
    with pytest.raises(InputError, match="two or more"):
        read_questions({"us": tmp_path / "ours"})

"""Results as HTML and as files: exported, escaped, read aloud, plotted."""

import base64
import csv
import io
import json
import re

import jsonschema

from mint_iqa.records import FailedAssessment, Intervals, ModelInfo, schema
from ui import html
from ui.html import csv_text, json_text
from ui.inputs import Upload
from ui.session import ComparedPicture, Session


def test_the_exported_json_meets_the_schema_and_holds_the_answers(assessor, shown):
    for _ in shown.ask(assessor, "Why?"):
        pass
    records = json.loads(json_text(shown.records))
    jsonschema.validate(records, schema())
    assert [("scores" in r, r.get("question")) for r in records] == [(True, None), (True, "Why?")]


def test_the_exported_csv_has_a_row_for_every_picture_and_no_formulas(assessment):
    failed = FailedAssessment(
        image="=1+1.png", model=ModelInfo(name="nano", revision="0"), error={"code": "x", "message": "No."}
    )
    rows = list(csv.DictReader(io.StringIO(csv_text([assessment(("blur",), quality=12.346), failed]))))
    assert (rows[0]["quality"], rows[0]["quality_level"], rows[0]["fault_blur"]) == ("12.35", "bad", "0.5")
    assert (rows[1]["image"], rows[1]["quality"], rows[1]["error"]) == ("'=1+1.png", "", "No.")


def test_a_download_link_holds_the_file_itself(shown):
    link = re.search(r'download="fox 0\.json" href="data:application/json;base64,([^"]+)"', links(shown))
    assert json.loads(base64.b64decode(link[1])) == json.loads(json_text(shown.records))


def links(conversation):
    return html.downloads(conversation.records, conversation.assessment.image)


def test_names_and_prompts_of_strangers_are_not_html(assessor, uploads):
    evil = "<img src=x onerror=alert(1)>.png"
    session = Session()
    shown = session.show(assessor, Upload(uploads[0].path, evil), "<b>")
    rows = next(session.compare(assessor, [Upload(uploads[1].path, evil)], "<b>"))
    for part in (html.result(shown.assessment, "<b>"), links(shown), html.table(rows), html.alert(evil)):
        assert "<img src=x" not in part and "<b>." not in part


def test_a_score_is_read_out_with_its_word(assessment):
    shown = html.result(assessment(quality=59.7, prompt=None))
    assert 'aria-label="quality" aria-valuemin="0" aria-valuemax="100" aria-valuenow="59"' in shown
    assert 'aria-valuetext="59 of 100, fair"' in shown
    assert 'aria-label="correspondence: no prompt given"' in shown


def with_interval(assessment, low, high):
    intervals = Intervals(quality=(low, high), authenticity=None, correspondence=None)
    return assessment.model_copy(update={"intervals": intervals})


def test_an_interval_is_shown_drawn_and_read_out(assessment):
    shown = html.result(with_interval(assessment(quality=63.2), 51.3, 73.2))
    assert 'aria-valuetext="63 of 100, good, 90 % interval 51 to 74"' in shown
    assert ">51–74</span>" in shown and "<br>90 % interval 51 to 74." in shown
    assert '<b style="left:51.3%;width:21.9%"></b>' in shown
    assert shown.count('class="ends"') == 1  # the other scores have none


def test_the_comparison_shows_intervals_too(assessment):
    rows = [ComparedPicture("", with_interval(assessment(quality=63.2), 51.3, 73.2))]
    assert 'aria-label="90 % interval 51 to 74"' in html.table(rows)
    assert html.table(rows).count('style="left:') == 1


def test_a_model_without_intervals_shows_none(assessment):
    rows = [ComparedPicture("", assessment())]
    for part in (html.result(assessment()), html.table(rows), html.waiting()):
        assert "interval" not in part and "ends" not in part and "left:" not in part


def test_dots_of_equal_scores_lie_in_different_lanes(assessor, uploads):
    session = Session()
    rows = list(session.compare(assessor, [uploads[0]] * 3, ""))[-1]
    assert sorted(re.findall(r"--lane:(\d)", html.plot(rows))) == sorted("012" * 2)

"""The page as a person meets it, in a real browser with a tiny model, and once with nano."""

import base64
import json
import re

import jsonschema
import pytest
from playwright.sync_api import Page, expect

from mint_iqa.records import schema
from mint_iqa.vocabulary import LEVELS
from tests.browser.conftest import EXAMPLES, serve

SCORES = "#scores [role=meter]"


def upload(page: Page, path) -> None:
    page.set_input_files("#picture input[type=file]", path)


def wait_for_answer(page: Page, number: int) -> str:
    """The whole text of the `number`th answer, from 1."""
    answer = page.locator("#chat .bot.message").nth(number - 1)
    # The bubbles of Gradio and of the page that stand in its place; Stop may still be off while they do.
    expect(answer).not_to_have_text(re.compile(r"^\s*(Loading content|…)?\s*$"))
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#chat .bot.message")).to_have_count(number)
    expect(page.locator("#files a")).to_have_count(2)
    return answer.inner_text()


def show(page: Page, name: str = "coffee.jpg", prompt: str = "") -> None:
    page.fill("#prompt textarea", prompt)
    upload(page, EXAMPLES / name)
    wait_for_answer(page, 1)


def linked_file(page: Page, kind: str, place: str = "#files") -> str:
    href = page.locator(f"{place} a", has_text=kind).get_attribute("href")
    return base64.b64decode(href.split(",", 1)[1]).decode()


@pytest.fixture
def page(open_page, url):
    return open_page(url)


def test_scores_come_first_then_the_reasons_then_an_answer_and_a_follow_up(page, tiny, monkeypatch):
    encoded, original = [], tiny.model.encode_image
    monkeypatch.setattr(tiny.model, "encode_image", lambda *args: encoded.append(1) or original(*args))
    upload(page, EXAMPLES / "coffee.jpg")
    expect(page.locator(SCORES)).to_have_count(2)
    assert wait_for_answer(page, 1)
    suggested = page.locator("#suggestions button:visible")
    question = suggested.first.inner_text()
    suggested.first.click()
    assert wait_for_answer(page, 2)
    expect(page.locator("#chat .user.message").nth(1)).to_have_text(question)
    page.fill("#question textarea", "And why?")
    page.keyboard.press("Enter")
    assert wait_for_answer(page, 3)
    expect(page.locator("#question textarea")).to_have_value("")
    assert len(encoded) == 1


def test_the_scores_are_those_of_the_library(page, tiny):
    show(page, prompt="a cup")
    scores = tiny.assess(EXAMPLES / "coffee.jpg", "a cup", explain=False).scores
    shown = [int(text) for text in page.locator("#scores .number").all_inner_texts()]
    assert shown == [int(round(score, 2)) for _, score in scores]


def test_a_new_prompt_scores_anew_without_encoding_and_says_so(page, tiny, monkeypatch):
    show(page)
    monkeypatch.setattr(tiny.model, "encode_image", lambda *args: pytest.fail("encoded again"))
    expect(page.locator("#scores")).to_contain_text("no prompt given")
    page.fill("#prompt textarea", "a red fox")
    page.click("#again")
    expect(page.locator(SCORES)).to_have_count(3)
    expect(page.locator("#scores")).to_contain_text("the picture was not encoded again")


def test_a_file_that_is_no_picture_is_named_in_a_sentence(page, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    upload(page, path)
    alert = page.locator("#scores [role=alert]")
    expect(alert).to_contain_text("notes.png is not a PNG")
    page.wait_for_timeout(1500)  # the explanation, of which there is none, comes after it
    expect(alert).to_contain_text("notes.png is not a PNG")
    expect(page.locator("#stop")).to_have_text("Stop")
    expect(page.locator("body")).not_to_contain_text("Traceback")
    page.click("#picture button[aria-label='Remove Image']")
    expect(page.locator("#scores [role=alert]")).to_have_count(0)
    show(page)


def test_a_question_without_a_picture_gets_a_sentence(page):
    page.fill("#question textarea", "Why is it low?")
    page.click("#ask")
    expect(page.locator("#notice [role=alert]")).to_contain_text("There is no picture yet")


def test_a_removed_picture_takes_scores_and_conversation_with_it(page):
    show(page)
    page.click("#picture button[aria-label='Remove Image']")
    expect(page.locator(SCORES)).to_have_count(0)
    expect(page.locator("#chat .message")).to_have_count(0)


def test_stop_ends_an_answer_and_keeps_its_beginning(page, tiny, monkeypatch):
    show(page)
    slow_down(tiny, monkeypatch, pieces=200)
    page.fill("#question textarea", "Why?")
    page.click("#ask")
    expect(page.locator("#chat .bot.message").nth(1)).to_contain_text("word word")
    page.click("#stop")
    text = wait_for_answer(page, 2)
    assert 2 <= text.count("word") < 150


def slow_down(assessor, monkeypatch, pieces: int) -> None:
    """Answers of many words, 20 a second."""
    import time

    def answer(*_):
        for _ in range(pieces):
            time.sleep(0.05)
            yield "word "

    monkeypatch.setattr(assessor, "ask", answer)


def test_an_example_is_one_click(page):
    page.click("#examples button >> nth=0")
    expect(page.locator(SCORES)).to_have_count(3)
    expect(page.locator("#prompt textarea")).to_have_value("a cup of coffee on a wooden table")
    assert wait_for_answer(page, 1)


def test_the_download_is_a_file_of_records_with_scores_and_answers(page):
    show(page)
    with page.expect_download() as download:
        page.locator("#files a", has_text="JSON").click()
    records = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "coffee.json"
    jsonschema.validate(records, schema())
    assert "scores" in records[0] and records[1]["answer"]
    assert linked_file(page, "CSV").startswith("image,prompt,quality")


def test_pictures_are_compared_in_a_table_that_sorts_and_in_a_plot(page, tmp_path):
    page.get_by_role("tab", name="Compare").click()
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    page.set_input_files(
        "#pictures input[type=file]", [EXAMPLES / "coffee.jpg", EXAMPLES / "rocket.jpg", bad]
    )
    expect(page.locator("#compared-files a")).to_have_count(2)
    expect(page.locator("#table")).to_contain_text("bad.png is not a PNG")
    expect(page.locator("#plot .dot")).to_have_count(4)
    page.locator("#table th button", has_text="Quality").focus()
    for order, sign in (("descending", -1), ("ascending", 1)):
        page.keyboard.press("Enter")
        expect(page.locator("#table th").nth(2)).to_have_attribute("aria-sort", order)
        cells = page.locator("#table tbody tr td:nth-child(3)")
        values = [cells.nth(i).get_attribute("data-value") for i in range(3)]
        assert values[2] == "" and values[:2] == sorted(values[:2], key=lambda v: sign * float(v))
    jsonschema.validate(json.loads(linked_file(page, "JSON", "#compared-files")), schema())


def test_too_many_pictures_are_refused_in_a_sentence(page, tmp_path):
    page.get_by_role("tab", name="Compare").click()
    source = (EXAMPLES / "coffee_blurred.jpg").read_bytes()
    paths = [tmp_path / f"{i}.jpg" for i in range(9)]
    for path in paths:
        path.write_bytes(source)
    page.set_input_files("#pictures input[type=file]", paths)
    expect(page.locator("#plot [role=alert]")).to_contain_text("compare at most 8")


def test_two_people_do_not_see_each_other(open_page, url):
    anna, bert = open_page(url), open_page(url)
    show(anna)
    expect(bert.locator("#chat .message")).to_have_count(0)
    show(bert, "rocket.jpg", "a rocket")
    expect(bert.locator(SCORES)).to_have_count(3)
    expect(anna.locator(SCORES)).to_have_count(2)
    assert '"image": "coffee.jpg"' in linked_file(anna, "JSON")
    assert '"image": "rocket.jpg"' in linked_file(bert, "JSON")


def test_markup_in_a_question_stays_text(page):
    show(page)
    page.fill("#question textarea", "![x](http://example.com/x.png) <img src=x onerror=alert(1)>")
    page.click("#ask")
    wait_for_answer(page, 2)
    expect(page.locator("#chat img[src*='example.com'], #chat img[src=x]")).to_have_count(0)
    expect(page.locator("#chat .user.message").nth(1)).to_contain_text("![x](http://example.com/x.png)")


@pytest.mark.parametrize("tab", ["Score and ask", "Compare"])
def test_a_screen_of_400_pixels_needs_no_scrolling_sideways(open_page, url, tab):
    page = open_page(url, viewport={"width": 400, "height": 800})
    page.get_by_role("tab", name=tab).click()
    if tab == "Compare":
        page.click("#compare-example")
        expect(page.locator("#compared-files a")).to_have_count(2)
    else:
        page.click("#examples button >> nth=3")
        wait_for_answer(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    cut = "[...document.querySelectorAll('.score .name, .score .word, #examples button, td')].filter("
    cut += "e => e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
    assert page.evaluate(cut) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(open_page, url, scheme):
    page = open_page(url, color_scheme=scheme)
    show(page, prompt="a cup")
    for selector in (".score .name", ".score .word", ".faults", ".hint", "#ask", "#suggestions button"):
        assert contrast(page, selector) >= 4.5, selector
    for level in LEVELS:
        page.evaluate("level => document.querySelector('.score').className = `score ${level}`", level)
        assert contrast(page, ".score .word") >= 4.5, level


def test_the_button_changes_light_to_dark(open_page, url):
    page = open_page(url, color_scheme="light")
    light = background(page)
    page.click("#theme")
    assert sum(background(page)) < sum(light) - 300


CONTRAST = """selector => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  let element = document.querySelector(selector);
  const ink = parse(getComputedStyle(element).color);
  let paper = [255, 255, 255, 1];
  for (; element; element = element.parentElement) {
    const c = parse(getComputedStyle(element).backgroundColor);
    if (c.length < 4 || c[3] > 0.9) { paper = c; break; }
  }
  return [ink.slice(0, 3), paper.slice(0, 3)];
}"""


def contrast(page: Page, selector: str) -> float:
    """WCAG 2 contrast of an element's letters against what is behind them."""

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted(map(luminance, page.evaluate(CONTRAST, selector)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def background(page: Page) -> list[float]:
    return page.evaluate(CONTRAST, "#header")[1]


def test_everything_can_be_reached_and_used_with_the_keyboard(page):
    show(page, prompt="a cup")
    page.locator("#scores .score").first.focus()
    expect(page.locator("#scores .tip").first).to_be_visible()
    page.locator("#suggestions button:visible").first.focus()
    page.keyboard.press("Enter")
    wait_for_answer(page, 2)
    unnamed = "button, input:not([type=file]), textarea"
    script = f"[...document.querySelectorAll('{unnamed}')].filter(e => e.offsetParent && !e.innerText"
    script += " && !e.ariaLabel && !e.labels?.length && !e.title).map(e => e.outerHTML)"
    assert page.evaluate(script) == []


def test_nothing_of_gradio_is_advertised(page):
    expect(page.locator("footer:visible")).to_have_count(0)
    assert not re.search("gradio", page.locator("body").inner_text(), re.IGNORECASE)


def test_nano_explains_a_blurred_picture_end_to_end(nano, open_page, tmp_path):
    with serve(nano, tmp_path) as address:
        page = open_page(address)
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.click("#examples button >> nth=0")
        expect(page.locator("#scores")).to_contain_text("blur")
        assert "unsharp" in wait_for_answer(page, 1) or "blur" in wait_for_answer(page, 1)
        expect(page.locator("#suggestions")).to_contain_text("Why is the quality low?")

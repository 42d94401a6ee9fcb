"""The page of `mint-iqa evaluate`, as a browser sees it."""

from pathlib import Path

from playwright.sync_api import Browser

from mint_iqa import cli
from mint_iqa.evaluation import agreement
from tests.evaluated import perfect


def test_the_page_opens_asks_for_nothing_and_is_not_wider_than_a_telephone(
    browser: Browser, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(agreement, "BOOTSTRAP_SAMPLES", 5)
    scores, labels = perfect(tmp_path)
    assert cli.main(["evaluate", str(scores), str(labels), "--output", str(tmp_path / "out")]) == 0
    page = browser.new_page(viewport={"width": 400, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "out" / "report.html").as_uri())
    assert asked == [page.url]
    assert page.locator("svg circle.dot").count() == 120
    assert page.locator("svg").first.bounding_box()["height"] > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()

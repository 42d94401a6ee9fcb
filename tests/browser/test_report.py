"""A report in a real browser, opened from disk."""

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from mint_iqa import cli
from mint_iqa.records import Assessment, Levels, ModelInfo, Scores

EVIL = '"><img src=https://x.example/a.png onerror="window.ran = 1"><script>window.ran = 1</script>'


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for name, shift in (("new", 7), ("old", 0)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(30):
                image = f"{'long_folder_name' * 5}/{i}.png" if i % 3 else f"{i}.png"
                scores = Scores(quality=2 * i + shift, authenticity=90 - i, correspondence=3 * i)
                record = Assessment(
                    image=image, prompt=f"{EVIL} {i}", model=ModelInfo(name="nano", revision=EVIL),
                    scores=scores, levels=Levels.of(scores), metadata={"generator": f"{EVIL} {i % 4}"},
                )  # fmt: skip
                file.write(record.model_dump_json() + "\n")
    for i in range(0, 30, 3):
        Image.effect_noise((300, 200), 60).convert("RGB").save(folder / f"{i}.png")
    page = folder / "page.html"
    assert (
        cli.main(["report", *(str(folder / f"{n}.jsonl") for n in ("new", "old")), "--output", str(page)])
        == 0
    )
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_whole_without_a_server_and_runs_nothing(
    browser: Browser, page_file: Path, scheme: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("[window.ran === undefined, document.scripts.length]") == [True, 0]
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 10
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()

"""What `mint-iqa score` wrote, on a page, and two such runs compared: `mint-iqa report`.

run.py         JSON Lines of records, kept small
comparison.py  two runs, paired by image and prompt
intervals.py   bootstrap intervals of means, fast for 100,000 images
plots.py       histograms and scatters as SVG
album.py       thumbnails, and which pictures are missing
parts.py       texts and contact sheets as HTML
page.py        the page
groups.py      its section about generators or folders
compared.py    its section about the second run
"""

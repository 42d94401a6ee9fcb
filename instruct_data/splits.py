"""Splits that don't leak: by prompt or by reference image, with all copies of a picture on one side.

The official split of AIGCIQA2023+ does leak. It is here only for comparison with published figures.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from instruct_data.importers.aigciqa2023 import number_of
from instruct_data.records import SPLITS, R, Record, Split
from mint_iqa.errors import MintIQAError
from mint_iqa.folds import prompt_folds

By = Literal["prompt", "reference"]

# The 480 test pictures of AIGCIQA2023+, as in the published code's test file. The label file has no column
# for the split, but it lists 1,920 pictures by number and then these 480.
_OFFICIAL_TEST = """
    2 5 10 33 44 48 52 53 63 70 73 76 82 85 95 97 101 105 108 113 117 127 137 139 141 142 151 152 155 156 157
    165 177 179 180 188 205 207 216 222 223 228 233 234 235 236 240 241 250 255 259 261 269 277 280 287 288
    292 295 296 301 305 307 310 312 317 320 322 323 327 336 343 348 378 379 380 393 396 397 399 402 407 412
    414 415 437 440 451 455 456 457 462 463 466 468 470 475 478 491 494 496 498 502 505 510 515 516 520 521
    525 530 549 550 551 558 562 566 572 575 577 579 582 583 588 589 592 593 602 604 610 612 620 621 626 627
    635 643 648 659 660 662 665 667 669 673 682 685 688 693 696 704 706 709 710 715 718 722 728 730 734 759
    762 767 768 771 782 795 798 810 812 814 817 823 831 840 848 853 862 863 866 870 873 874 875 878 881 882
    887 890 900 909 912 922 930 940 947 965 967 969 978 980 985 988 996 999 1004 1006 1012 1017 1023 1027
    1028 1033 1038 1043 1056 1064 1070 1072 1080 1081 1084 1087 1093 1102 1106 1108 1109 1116 1123 1143 1153
    1155 1156 1158 1164 1166 1189 1193 1195 1198 1199 1203 1204 1205 1208 1212 1213 1214 1224 1225 1227 1234
    1239 1242 1244 1246 1250 1257 1262 1273 1275 1282 1284 1286 1287 1290 1293 1294 1299 1303 1306 1316 1321
    1329 1332 1336 1337 1346 1350 1352 1358 1363 1364 1371 1375 1378 1392 1398 1400 1404 1410 1411 1417 1419
    1424 1431 1444 1451 1456 1458 1459 1467 1472 1475 1478 1490 1491 1492 1496 1497 1503 1504 1505 1506 1510
    1511 1514 1516 1519 1522 1523 1525 1532 1533 1535 1537 1542 1547 1549 1551 1561 1565 1567 1572 1574 1584
    1587 1590 1591 1604 1605 1606 1609 1612 1625 1633 1635 1644 1649 1658 1661 1676 1685 1692 1693 1696 1698
    1704 1713 1714 1723 1726 1734 1738 1739 1749 1755 1756 1762 1765 1768 1775 1777 1787 1798 1801 1803 1805
    1806 1807 1808 1821 1822 1828 1829 1831 1838 1839 1843 1861 1864 1870 1874 1880 1881 1892 1896 1910 1911
    1920 1926 1929 1931 1933 1936 1938 1952 1957 1958 1972 1986 1998 2000 2005 2015 2016 2026 2034 2039 2043
    2047 2054 2062 2065 2069 2081 2085 2087 2092 2093 2095 2111 2113 2114 2118 2120 2128 2130 2137 2138 2141
    2143 2147 2148 2159 2170 2172 2186 2189 2193 2200 2203 2207 2213 2231 2233 2252 2264 2266 2271 2284 2285
    2289 2295 2300 2304 2309 2311 2315 2322 2323 2324 2331 2355 2371 2376 2378 2379 2397
"""
OFFICIAL_TEST = frozenset(map(int, _OFFICIAL_TEST.split()))


def image_hashes(records: Sequence[Record], folder: Path) -> dict[str, str]:
    """name -> sha256 of every picture of the records that exists below `folder`."""
    hashes = {}
    for name in dict.fromkeys(record.image for record in records):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def by_shares(
    records: Sequence[R],
    by: By,
    *,
    shares: Sequence[int] = (80, 10, 10),
    hashes: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[R]:
    """The records split into train, validation and test in about these shares; a seed repeats the split.

    shares: three whole numbers >= 0, e.g. 80, 0, 20; hashes: see `image_hashes`. Records of one prompt (or
    one reference) stay together, and so do identical pictures (see `mint_iqa.folds.prompt_folds`).
    Raises MintIQAError: `bad_argument` for too few unrelated prompts, `no_reference` for a distorted picture
    without a reference, and the errors of `check_split`.
    """
    if len(shares) != 3 or min(shares) < 0 or sum(share > 0 for share in shares) < 2:
        raise MintIQAError(
            "bad_argument", "Shares must be three whole numbers, two of them above 0, such as 80/10/10."
        )
    parts = [share // math.gcd(*shares) for share in shares]
    folds = _folds(records, by, sum(parts), hashes or {}, seed)
    sides = [side for side, part in zip(SPLITS, parts, strict=True) for _ in range(part)]
    return _assigned(records, [sides[fold] for fold in folds], hashes or {})


def by_fold(
    records: Sequence[R],
    by: By,
    *,
    folds: int,
    test_fold: int,
    hashes: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[R]:
    """The records with fold `test_fold` (0..folds-1) as test, the rest as train; raises like `by_shares`."""
    if not 0 <= test_fold < folds:
        raise MintIQAError("bad_argument", f"The test fold must be one of 0..{folds - 1}, not {test_fold}.")
    found = _folds(records, by, folds, hashes or {}, seed)
    return _assigned(records, ["test" if fold == test_fold else "train" for fold in found], hashes or {})


def official_aigciqa2023(records: Sequence[R]) -> list[R]:
    """The records of AIGCIQA2023+ with the published split into train and test, picture by picture.

    Every prompt is on both sides: see `shared_prompts`. Raises MintIQAError (`bad_argument`) for a picture
    with a name other than 0.png..2399.png.
    """
    numbers = [number_of(record.image) for record in records]
    if None in numbers:
        stranger = records[numbers.index(None)].image
        raise MintIQAError(
            "bad_argument",
            f"{stranger!r:.80} is not a picture of AIGCIQA2023+, which this split is for: use --by prompt.",
        )
    return _with_sides(records, ["test" if number in OFFICIAL_TEST else "train" for number in numbers])


def shared_prompts(records: Sequence[Record]) -> tuple[int, int]:
    """The number of prompts on more than one side, and the number of all prompts."""
    sides: dict[str, set[Split | None]] = {}
    for record in records:
        if record.prompt:
            sides.setdefault(_tidy(record.prompt), set()).add(record.split)
    return sum(len(found) > 1 for found in sides.values()), len(sides)


def check_split(records: Sequence[Record], hashes: Mapping[str, str] | None = None) -> None:
    """Raise MintIQAError (`split_leak`) that names a prompt, reference or picture on two sides.

    Identical pictures under two names are found if `hashes` has both. A record without a split is also an
    error (`not_split`).
    """
    digests = hashes or {}
    keys: tuple[tuple[str, Callable[[Record], str]], ...] = (
        ("prompt", lambda record: _tidy(record.prompt or "")),
        ("reference", lambda record: record.reference or record.image),
        ("image", lambda record: digests.get(record.image, record.image)),
    )
    for kind, key_of in keys:
        _check_apart(records, kind, key_of)


def _check_apart(records: Sequence[Record], kind: str, key_of: Callable[[Record], str]) -> None:
    first: dict[str, Record] = {}
    for record in records:
        if record.split is None:
            raise MintIQAError("not_split", f"{record.image} has no split: split all records first.")
        earlier = first.setdefault(key_of(record), record) if key_of(record) else record
        if earlier.split != record.split:
            name = {"prompt": record.prompt, "reference": record.reference}.get(kind) or record.image
            raise MintIQAError(
                "split_leak",
                f"The {kind} {name!r:.200} is in {earlier.split} ({earlier.image}) "
                f"and in {record.split} ({record.image}): keep records that share a {kind} on one side.",
            )


def sizes(records: Sequence[Record]) -> dict[str, int]:
    """side -> number of records, train first."""
    found = Counter(record.split for record in records)
    return {side: found[side] for side in SPLITS if found[side]}


def _folds(records: Sequence[Record], by: By, folds: int, hashes: Mapping[str, str], seed: int) -> list[int]:
    if by == "reference":
        keys = [pristine(record) for record in records]
    else:
        keys = [record.prompt or pristine(record) for record in records]
    # The questions about one picture stay together, even if its file is missing.
    pictures = [hashes.get(record.image, record.image) for record in records]
    return [int(fold) for fold in prompt_folds(keys, pictures, folds, seed)]


def pristine(record: Record) -> str:
    """The picture that a record derives from, or its own. Raises MintIQAError (`no_reference`) if unknown."""
    if record.distortion and not record.reference:
        raise MintIQAError(
            "no_reference",
            f"{record.image} is distorted, but does not say what it derives from: add its reference.",
        )
    return record.reference or record.image


def _assigned(records: Sequence[R], sides: Sequence[Split], hashes: Mapping[str, str]) -> list[R]:
    done = _with_sides(records, sides)
    check_split(done, hashes)
    return done


def _with_sides(records: Sequence[R], sides: Sequence[Split]) -> list[R]:
    return [record.model_copy(update={"split": side}) for record, side in zip(records, sides, strict=True)]


def _tidy(prompt: str) -> str:
    return " ".join(prompt.split()).casefold()

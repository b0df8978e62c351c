"""COVID Rural: JPEG, outlines in JSON, masks of 0 and 1 in PNG, and a table of patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.replicas.common import Row, draw, frontals, lesion, named, picture, save, split_of, table

OUTLINES = '{"version": "4.5.6", "shapes": [{"label": "right_lung", "points": []}]}'


def write(root: Path, patients: int = 12) -> Path:
    """The set in ROOT/covid_rural_annot; images without a lesion have outlines and no mask, and one was not annotated."""
    home = root / "covid_rural_annot"
    (home / "pngs_masks").mkdir(parents=True)
    (home / "jpgs/jsons").mkdir(parents=True)
    people = named(_people(), _split, [split_of(place) for place in range(patients)])
    rows: dict[str, Row] = {}
    for number, (place, _, record) in enumerate(frontals(patients)):
        cells = {"PATIENT_ID": people[place], "AGE": f"{record.age:.0f}", "SEX": record.sex, "RACE": "WHITE", "ZIP": "720"}
        rows.setdefault(people[place], cells)
        name = f"{people[place]}_{number % 12 + 1:02d}-{number % 28 + 1:02d}-2012-XR"
        save(home / f"jpgs/{name}.jpg", picture(record))
        if number:
            (home / f"jpgs/jsons/{name}.json").write_text(OUTLINES)
            if (mask := lesion(record)).any():
                save(home / f"pngs_masks/{name}.png", mask)
    table(home / "covid_rural_patient_info.csv", list(rows.values()))
    return home


def _people() -> Iterator[str]:
    yield from (f"COVID-19-AR-{number}" for number in range(16_406_488, 16_500_000))


def _split(patient: str) -> str:
    share = draw("covid-rural-60-20-20-0", patient)
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"

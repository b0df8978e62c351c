"""Tables of data sets in their official layouts, hundreds of rows long, with a single image: enough to split them.

Builders return the `--data` value. Patients have one to four images, so that draws of images and of patients differ.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.data.sources.chexpert import CLASSES

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def patients(images: int) -> Iterator[tuple[int, int]]:
    """(patient, image of the patient) of as many images."""
    left = images
    patient = 0
    while left:
        for number in range(min(1 + patient % 4, left)):
            yield patient, number
            left -= 1
        patient += 1


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 90).save(path)


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def rsna_uid(number: int) -> str:
    return f"{(number * 2654435761) % 2**32:08x}-36f6-443a-abce-a6a6f3c1a1e9"  # ids whose order is not that of the table


def rsna(root: Path, images: int = 300, mapped: bool = True) -> str:
    """Every third image with pneumonia; with `mapped`, the mapping to patients of NIH."""
    labels, kinds, mapping = [], [], []
    for number, (patient, image) in enumerate(patients(images)):
        uid, positive = rsna_uid(number), number % 3 == 0
        labels += [[uid, *(["10.0", "20.0", "30.0", "40.0", "1"] if positive else ["", "", "", "", "0"])]] * (
            1 + (number % 6 == 0)
        )
        kinds.append([uid, "Lung Opacity" if positive else "Normal"])
        mapping.append({"subset_img_id": uid, "img_id": f"{patient:08d}_{image:03d}.png"})
    write_table(root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], labels)
    write_table(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], kinds)
    if mapped:
        (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    (root / "stage_2_train_images").mkdir()
    (root / "stage_2_train_images" / f"{rsna_uid(0)}.dcm").touch()
    return f"rsna:{root}"


def siim(root: Path, images: int = 300) -> str:
    """Every fourth image with pneumothorax, of which every second has two rows."""
    rows = []
    for number in range(images):
        uid = f"1.2.276.0.7230010.3.1.4.8323329.{number * 37 % images}.1517875162.{number}"
        rows += [[uid, " 5 3"], *([[uid, " 90 2"]] if number % 8 == 0 else [])] if number % 4 == 0 else [[uid, " -1"]]
    write_table(root / "train-rle.csv", ["ImageId", " EncodedPixels"], rows)
    (root / "dicom-images-train/a/b").mkdir(parents=True)
    (root / "dicom-images-train/a/b" / f"{rows[0][0]}.dcm").touch()
    return f"siim:{root}"


def covidx(root: Path, images: int = 200) -> str:
    """Lists of three classes, as COVIDx9A; 20 images of others are the test."""
    words = ("normal", "pneumonia", "COVID-19")
    lines = [f"{patient} f{patient}-{image}.png {words[patient % 3]} rsna" for patient, image in patients(images)]
    root.mkdir(parents=True)
    (root / "train_COVIDx9A.txt").write_text("\n".join(lines) + "\n")
    (root / "test_COVIDx9A.txt").write_text("".join(f"{n + 5000} g{n}.jpg {words[n % 3]} ricord\n" for n in range(20)))
    (root / "test").mkdir()
    picture(root / "train/f0-0.png")
    return f"covidx:{root}"


def object_cxr(root: Path, images: int = 200) -> str:
    for name, numbers in (("train", range(images)), ("dev", range(8000, 8020))):
        rows = [[f"{1 + number:05d}.jpg", "0 1 1 5 5" if number % 2 else ""] for number in numbers]
        write_table(root / f"{name}.csv", ["image_name", "annotation"], rows)
        picture(root / name / rows[0][0])
    return f"object-cxr:{root}"


def nih(root: Path, images: int = 400) -> str:
    """Every second image with a finding, every fourth with a box; the last 80 images are the official test."""
    names = [f"{patient:08d}_{image:03d}.png" for patient, image in patients(images)]
    columns = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Sex", "View Position"]
    rows = [
        [name, "Mass" if number % 2 else "No Finding", "0", str(int(name[:8])), "50", "F", "PA"]
        for number, name in enumerate(names)
    ]
    write_table(root / "Data_Entry_2017_v2020.csv", columns, rows)
    edge = next(number for number in range(images - 80, images) if names[number].endswith("_000.png"))
    (root / "train_val_list.txt").write_text("\n".join(names[:edge]))
    (root / "test_list.txt").write_text("\n".join(names[edge:]))
    boxes = [[name, "Mass", "10", "10", "50", "60"] for number, name in enumerate(names) if number % 4 == 1]
    write_table(root / "BBox_List_2017.csv", ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"], boxes)
    path = root / "images" / names[0]
    path.parent.mkdir()
    Image.new("L", (1024, 1024)).save(path)
    return f"nih:{root}"


def covid_rural(root: Path, images: int = 60) -> str:
    """All but the first three images are annotated."""
    found = [(f"COVID-19-AR-{16406488 + patient}", image) for patient, image in patients(images)]
    rows = [[name, "50", "F"] for name in dict.fromkeys(name for name, _ in found)]
    write_table(root / "covid_rural_patient_info.csv", ["PATIENT_ID", "AGE", "SEX"], rows)
    for number, (name, image) in enumerate(found):
        file = f"{name}_01-{image + 1:02d}-2012-XR"
        picture(root / f"jpgs/{file}.jpg")
        if number > 2:
            picture(root / f"pngs_masks/{file}.png")
    return f"covid-rural:{root}"


def chexpert(root: Path, images: int = 9000) -> str:
    """train.csv with more than 200 frontal images of each of the five classes alone, among others; valid.csv with 30 images."""
    draws = np.random.default_rng(0)
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CLASSES]

    def row(part: str, patient: int, image: int) -> list[str]:
        side = "lateral" if draws.random() < 0.2 else "frontal"
        labels = dict.fromkeys(CLASSES, "")
        labels[FIVE[draws.integers(5)]] = "1.0"
        kind = draws.integers(8)
        if kind >= 2:  # what lets an image be of the five: others are 0; what does not: another is 1, or uncertain
            labels |= {name: "0.0" for name in draws.choice(CLASSES, 3) if labels[name] != "1.0"}
        if kind >= 6:
            labels[str(draws.choice([name for name in CLASSES if labels[name] != "1.0"]))] = "-1.0" if kind == 6 else "1.0"
        path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{1 + image // 2}/view{1 + image % 2}_{side}.jpg"
        return [path, "Female", "50", side.title(), "AP" if side == "frontal" else "", *labels.values()]

    write_table(root / "train.csv", header, [row("train", 1 + patient, image) for patient, image in patients(images)])
    write_table(root / "valid.csv", header, [row("valid", 64541 + number, 0) for number in range(30)])
    (root / "train/patient00001").mkdir(parents=True)
    return f"chexpert:{root}"


BUILDERS = {
    "rsna": rsna, "siim": siim, "covidx": covidx, "object-cxr": object_cxr, "nih": nih, "covid-rural": covid_rural,
    "chexpert": chexpert,
}  # fmt: skip

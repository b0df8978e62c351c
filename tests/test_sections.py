"""Reports of every odd shape, made up, to sections."""

from __future__ import annotations

import time

import pytest

from benchmark.data.sections import parse_sections, replace_placeholders, report_sections
from benchmark.data.text import REPORT, join_sections

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with fever  // pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 The heart is mildly enlarged.  There is a
 small left effusion.

 No pneumothorax.

 IMPRESSION:

 1. Small left effusion,
 new since ___.
 2. Mild cardiomegaly.
"""

WET = """WET READ: ___ ___ 10:05 PM
 Large effusion.
 IMPRESSION: Call the team.
 ______________________________________________________________________________
                                 FINAL REPORT
 HISTORY:  Fall.

 FINDINGS:  No fracture.

 IMPRESSION:  Normal.
"""

ADDENDUM = """                                 FINAL ADDENDUM
 ADDENDUM  The line ends in the atrium.
 FINDINGS:  A line.
 ______________________________________________________________________________
                                 FINAL REPORT
 FINDINGS:  Clear.

 NOTIFICATION:  Told to Dr. ___ at 10:30 AM.
"""


def test_a_report_of_mimic() -> None:
    found = parse_sections(MIMIC)
    assert list(found) == ["examination", "indication", "technique", "comparison", "findings", "impression"]
    assert found["findings"] == "The heart is mildly enlarged. There is a small left effusion.\nNo pneumothorax."
    assert found["impression"] == "1. Small left effusion, new since ___.\n2. Mild cardiomegaly."
    assert found["indication"] == "___F with fever // pneumonia?"
    assert report_sections(MIMIC) == found


SHAPES: dict[str, tuple[str, dict[str, str]]] = {
    "empty": ("", {}),
    "blank": (" \n \t\n", {}),
    "final report alone": ("                  FINAL REPORT\n \n", {}),
    "no header": ("Clear lungs.\nNo effusion.", {"report": "Clear lungs. No effusion."}),
    "no header below the preamble": ("   FINAL REPORT\n Clear lungs.\n", {"report": "Clear lungs."}),
    "windows line ends": ("FINDINGS: A\r\nb.\r\n\r\nIMPRESSION: C.\r\n", {"findings": "A b.", "impression": "C."}),
    "byte order mark and hard spaces": ("\ufeffFINDINGS:\u00a0Clear.", {"findings": "Clear."}),
    "tabs": ("\tFINDINGS:\tClear\tlungs.", {"findings": "Clear lungs."}),
    "space before the colon": ("FINDINGS : Clear.", {"findings": "Clear."}),
    "no colon": ("FINDINGS\n Clear.\n IMPRESSION\n Normal.", {"findings": "Clear.", "impression": "Normal."}),
    "all on one line": (
        "FINAL REPORT INDICATION: Cough. COMPARISON: None. FINDINGS: Clear. IMPRESSION: Normal.",
        {"indication": "Cough.", "comparison": "None.", "findings": "Clear.", "impression": "Normal."},
    ),
    "Open-i in mixed case": (
        "Comparison: None. Indication: XXXX Findings: Heart size normal. Impression: No disease.",
        {"comparison": "None.", "indication": "XXXX", "findings": "Heart size normal.", "impression": "No disease."},
    ),
    "on one line without periods": (
        "HISTORY: surgical HISTORY of COPD COMPARISON: none FINDINGS: clear IMPRESSION: normal",
        {"history": "surgical HISTORY of COPD", "comparison": "none", "findings": "clear", "impression": "normal"},
    ),
    "both in one inside a line": ("INDICATION: A. FINDINGS AND IMPRESSION: B.", {"indication": "A.", "impression": "B."}),
    "lower case below a blank line": ("findings: a.\n\nimpression: b.", {"findings": "a.", "impression": "b."}),
    "a colon in the text": (
        "FINDINGS: Seen with the following\n findings: nodule, scar. Ratio 1:2 at 10:30.",
        {"findings": "Seen with the following findings: nodule, scar. Ratio 1:2 at 10:30."},
    ),
    "misspelled": (
        "FINDNGS: A.\n COMPARSION: None.\n ndication: b\n IMPRESSON: C.\n",
        {"findings": "A.", "comparison": "None. ndication: b", "impression": "C."},
    ),
    "conclusion": ("CONCLUSION: Normal.", {"impression": "Normal."}),
    "both in one": ("FINDINGS AND IMPRESSION: Normal.", {"impression": "Normal."}),
    "both with a stroke": ("FINDINGS/IMPRESSION: Normal.", {"impression": "Normal."}),
    "views as a title": (
        "CHEST, PA AND LATERAL:\n \n INDICATION:  Cough.\n \n IMPRESSION: Normal.",
        {"indication": "Cough.", "impression": "Normal."},
    ),
    "views as a header": ("TWO VIEWS OF THE CHEST:  A.\n IMPRESSION: B.", {"findings": "A.", "impression": "B."}),
    "organs alone": (
        "LUNGS AND PLEURA: Clear.\nHEART: Large.\nIMPRESSION: Large heart.",
        {"findings": "LUNGS AND PLEURA: Clear.\nHEART: Large.", "impression": "Large heart."},
    ),
    "organs below findings": ("FINDINGS:\nLUNGS: Clear.\nBONES: Whole.", {"findings": "LUNGS: Clear.\nBONES: Whole."}),
    "organs below an impression": (
        "FINDINGS: A.\nIMPRESSION:\nLUNGS: Clear.",
        {"findings": "A.", "impression": "LUNGS: Clear."},
    ),
    "several findings": ("FINDINGS: A.\n \n FINDINGS: B.\n \n FINDINGS:\n", {"findings": "A.\nB."}),
    "the same findings twice": ("FINDINGS: A.\n FINDINGS: A.\n", {"findings": "A."}),
    "an empty impression": ("FINDINGS: A.\n IMPRESSION:\n \n", {"findings": "A."}),
    "an unknown header": ("FINDINGS: A.\n RADIATION DOSE: 3.\n", {"findings": "A.", "radiation_dose": "3."}),
    "reason for exam with a view": ("REASON FOR CHEST X-RAY: A.\n IMPRESSION: B.", {"indication": "A.", "impression": "B."}),
    "recommendation(s)": ("IMPRESSION: A.\n RECOMMENDATION(S):  CT.", {"impression": "A.", "recommendations": "CT."}),
    "a wet read before": (WET, {"wet_read": "___ ___ 10:05 PM Large effusion.\nCall the team.", "history": "Fall.",
                                "findings": "No fracture.", "impression": "Normal."}),
    "an addendum before": (ADDENDUM, {"addendum": "ADDENDUM The line ends in the atrium.\nA line.", "findings": "Clear.",
                                      "notification": "Told to Dr. ___ at 10:30 AM."}),
    "last paragraph": (
        "FINAL REPORT\n HISTORY:  Cough.\n \n In comparison with ___, there is\n no change.\n \n No effusion.\n",
        {"history": "Cough.", "report": "In comparison with ___, there is no change.\nNo effusion."},
    ),
    "last paragraph before a notice": (
        "COMPARISON: None.\n \n Clear.\n \n NOTIFICATION: Told.\n \n Twice.\n",
        {"comparison": "None.", "notification": "Told.\nTwice.", "report": "Clear."},
    ),
    "last paragraph right below": ("COMPARISON:\n \n Clear lungs.\n", {"report": "Clear lungs."}),
    "nothing but history": ("FINAL REPORT\n HISTORY: Cough.\n", {"history": "Cough."}),
    "text before the first header": ("Clear.\n \n NOTIFICATION: Told.", {"notification": "Told.", "report": "Clear."}),
    "names of persons removed": ("XXXX: A.\n FINDINGS: B.\n XXXX: C.", {"findings": "B. XXXX: C."}),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_odd_shapes(name: str) -> None:
    text, sections = SHAPES[name]
    assert report_sections(text) == sections


def test_the_last_of_several_sections_as_the_published_parser_takes_it() -> None:
    assert parse_sections("FINDINGS: A.\n FINDINGS: B.\n", several="last") == {"findings": "B."}


def test_paragraphs_behind_the_first_are_the_last_paragraph() -> None:
    assert parse_sections("HISTORY: A.\n \n B.\n \n C.") == {"history": "A.", "last_paragraph": "B.\nC."}
    assert parse_sections("HISTORY: A.\n \n B.\n IMPRESSION: C.") == {"history": "A.\nB.", "impression": "C."}


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("FINDINGS: A.\n IMPRESSION: B.", "A. B."),
        ("HISTORY: x\n \n IMPRESSION: B.", "B."),
        ("HISTORY: x\n \n A.", "A."),
        ("A.", "A."),
    ],
)
def test_no_text_is_told_twice_and_no_history_is_told(text: str, whole: str) -> None:
    assert join_sections(report_sections(text), REPORT) == whole


def test_placeholders_are_left_or_replaced() -> None:
    assert parse_sections("FINDINGS: ___ and XXXX.") == {"findings": "___ and XXXX."}
    text = "Compared to ___, XXXX-year-old x-XXXX by [**Name 1**]; FOXXXX and snake_case stay."
    assert replace_placeholders(text) == "Compared to ___, ___-year-old x-___ by ___; FOXXXX and snake_case stay."
    assert replace_placeholders(text, "\\1") == "Compared to \\1, \\1-year-old x-\\1 by \\1; FOXXXX and snake_case stay."
    assert replace_placeholders("Seen by ___ .", "") == "Seen by ."


def test_the_parser_is_pure_and_idempotent_on_its_own_sections() -> None:
    for text in (MIMIC, WET, ADDENDUM):
        first = report_sections(text)
        assert report_sections(text) == first
        again = "\n".join(
            name.upper() + ": " + part.replace("\n", "\n\n")
            for name, part in first.items()
            if name in ("findings", "impression")
        )
        assert {name: parse_sections(again).get(name) for name in ("findings", "impression")} == {
            name: first.get(name) for name in ("findings", "impression")
        }


@pytest.mark.parametrize(
    "text", ["A " * 50_000, "LUNGS AND HEART " * 5_000 + ":", ":\n" * 50_000, "FINDINGS: a\n" * 5_000, "_" * 99_999]
)
def test_hostile_lengths_take_no_time(text: str) -> None:
    start = time.process_time()
    report_sections(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("Medical Condition", "indication"), ("Reason for this examination", "indication"), ("Comments", "comment"),
        ("Prior study", "comparison"), ("Electronically signed by", "signature"), ("MEDICATIONS", "medications"),
        ("Imprssion", "impression"), ("End of impression", "end_of_impression"),
    ],
)  # fmt: skip
def test_headers_of_the_field_end_the_findings_in_any_spelling(header: str, section: str) -> None:
    found = report_sections(f"FINDINGS:\nClear lungs.\n\n{header}: something else.\n")
    assert found == {"findings": "Clear lungs.", section: "something else."}


def test_a_region_of_the_body_does_not_end_the_findings() -> None:
    text = "FINDINGS:\nClear lungs.\n\nRight knee: no fracture.\n\nIMPRESSION:\nNormal.\n"
    assert report_sections(text)["findings"] == "Clear lungs.\nRight knee: no fracture."

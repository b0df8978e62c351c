"""The words of the reports. Fields: {grade} by severity, {side}, {zone}, {size}, {ribs}, {part}, and what a table names.

Wordings that prompts use ("is observed", "is seen", "findings consistent with") occur nowhere here, so that a prompt never
stands word for word in a report; a test reads every table.
"""

from __future__ import annotations

EXTENT = (("mild", "slight", "minor"), ("moderate",), ("severe", "marked"))
VOLUME = (("small", "tiny", "minimal"), ("moderate", "moderate-sized"), ("large", "massive"))
HEDGES = ("possible", "probable", "suspected", "questionable")
ORDINALS = (
    "",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)

POSITIVE: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": (
        "there is {grade} cardiomegaly, with a cardiothoracic ratio of {ratio}",
        "the heart is enlarged to a {grade} degree",
        "{grade} enlargement of the cardiac silhouette, cardiothoracic ratio {ratio}",
        "cardiac silhouette shows {grade} enlargement",
        "heart size is increased, {grade} in degree",
        "{grade} cardiomegaly",
    ),
    "Enlarged Cardiomediastinum": (
        "{grade} widening of the upper mediastinum{toward}",
        "the superior mediastinum is wide{toward}, {grade} in degree",
        "enlarged cardiomediastinum with {grade} broadening of its upper part{toward}",
        "mediastinal contour is enlarged{toward}, a {grade} change",
    ),
    "Edema": (
        "{grade} pulmonary edema with perihilar haze",
        "there is {grade} interstitial edema in both lungs",
        "vascular markings are distended with perihilar haze, in keeping with {grade} pulmonary edema",
        "bilateral perihilar haze and septal lines reflect {grade} edema",
        "{grade} edema pattern, symmetric",
    ),
    "Consolidation": (
        "{grade} consolidation in the {side} {zone} zone",
        "dense {grade} airspace consolidation occupies the {side} {zone} lung zone",
        "the {side} {zone} zone is consolidated, {grade} in extent",
        "there is a homogeneous area of consolidation of {grade} extent in the {zone} part of the {side} lung",
    ),
    "Pneumonia": (
        "patchy {grade} opacity in the {side} {zone} zone, compatible with pneumonia",
        "{grade} patchy infiltrate of the {zone} {side} lung suggests pneumonia",
        "there is {grade} pneumonia in the {side} {zone} zone",
        "multifocal patches in the {zone} zone of the {side} lung represent {grade} pneumonia",
    ),
    "Lung Opacity": (
        "hazy {grade} opacity in the {side} {zone} zone",
        "ill-defined {grade} lung opacity projects over the {zone} {side} lung",
        "there is {grade} ground glass opacity of the {side} {zone} lung zone",
        "{grade} hazy increase in density, {side} {zone} zone",
    ),
    "Atelectasis linear": (
        "{grade} linear atelectasis at the {side} base",
        "plate-like band in the {side} lower zone, {grade} atelectasis",
        "{grade} discoid atelectasis in the {side} lower lung",
        "a streak of subsegmental atelectasis crosses the {side} base, {grade} in extent",
    ),
    "Atelectasis lobar": (
        "{grade} volume loss at the {side} base with lobar atelectasis and a raised {side} hemidiaphragm",
        "collapse at the {side} base with {grade} atelectasis; the {side} hemidiaphragm is pulled up",
        "{side} basal atelectasis with {grade} loss of volume",
    ),
    "Pneumothorax": (
        "{volume} {side} pneumothorax",
        "there is a {volume} pneumothorax on the {side}",
        "a {side} pleural line outlines a {volume} pneumothorax",
        "pleural air on the {side}, a {volume} pneumothorax",
    ),
    "Pleural Effusion": (
        "{volume} {side} pleural effusion",
        "there is a {volume} effusion on the {side} with blunting of the costophrenic angle",
        "a {volume} {side} effusion layers at the base",
        "pleural fluid on the {side}, {volume} in amount",
    ),
    "Pleural Other thickening": (
        "{grade} pleural thickening along the {side} {zone} chest wall",
        "the {side} lateral pleura is thickened in its {zone} part, {grade} in degree",
        "{side} sided pleural thickening, {grade}",
    ),
    "Pleural Other plaque": (
        "{grade} calcified pleural plaque along the {side} {zone} chest wall",
        "dense pleural plaque on the {side}, {zone} zone, {grade} in extent",
    ),
    "Pleural Other cap": (
        "{grade} {side} apical pleural cap",
        "pleural scarring at the {side} apex, {grade}",
    ),
    "Fracture acute": (
        "acute displaced fracture of the {part} {side} {ribs}",
        "the {side} {ribs} {verb} broken in the {part} part, with a step of the fragments",
        "displaced {part} fracture involves the {side} {ribs}",
    ),
    "Fracture healed": (
        "healed fracture of the {part} {side} {ribs}",
        "old {part} {side} rib fracture with callus, {ribs}",
        "callus marks a prior fracture of the {side} {ribs} in the {part} part",
    ),
}  # fmt: skip

LESION = {
    "nodule": (
        "a {size} cm nodule in the {side} {zone} zone",
        "rounded nodule of {size} cm in the {zone} part of the {side} lung",
        "a well defined {size} cm lesion projects over the {side} {zone} zone",
    ),
    "mass": (
        "a {size} cm mass in the {side} {zone} zone",
        "large rounded mass of the {side} lung, {zone} zone, {size} cm across",
    ),
    "cavity": (
        "a {size} cm cavitary mass in the {side} {zone} zone",
        "thick walled cavity of {size} cm in the {zone} part of the {side} lung",
    ),
}  # fmt: skip

DEVICES: dict[str, tuple[str, ...]] = {
    "endotracheal tube": (
        "endotracheal tube ends {above} cm above the carina",
        "the tip of the endotracheal tube lies {above} cm above the carina",
        "patient is intubated, tube tip {above} cm from the carina",
    ),
    "nasogastric tube": (
        "nasogastric tube runs below the diaphragm into the stomach",
        "enteric tube with its tip in the stomach",
        "a feeding tube follows the esophagus and ends in the left upper abdomen",
    ),
    "central line": (
        "{side} {vein} central venous catheter with its tip {tip}",
        "central line from the {side} {vein} vein ends {tip}",
        "{side} sided {vein} line, tip {tip}",
    ),
    "chest tube": (
        "{side} chest tube in place",
        "a thoracostomy tube projects over the {side} lung",
        "{side} pleural drain with its tip in the upper hemithorax",
    ),
    "pacemaker": (
        "{side} chest wall pacemaker with leads to the right heart",
        "dual lead pacemaker, generator over the {side} chest",
        "a {side} sided cardiac device with two leads",
    ),
}  # fmt: skip

NEGATIVE: dict[str, tuple[str, ...]] = {
    "Pleural Effusion": ("pleural effusion", "effusion", "pleural fluid"),
    "Pneumothorax": ("pneumothorax",),
    "Consolidation": ("consolidation", "focal consolidation", "airspace consolidation"),
    "Edema": ("pulmonary edema", "edema", "interstitial edema"),
    "Pneumonia": ("pneumonia",),
    "Fracture": ("fracture", "acute fracture", "rib fracture"),
    "Lung Lesion": ("suspicious nodule", "mass", "nodule"),
    "Atelectasis": ("atelectasis",),
    "Pleural Other": ("pleural thickening",),
}
DENIALS = (
    "no {what}", "there is no {what}", "no evidence of {what}", "negative for {what}", "without {what}",
    "{what} is absent", "no sign of {what}",
)  # fmt: skip
CLEAR = (
    "the lungs are clear", "both lungs are well aerated and clear", "clear lung fields", "no focal lung abnormality",
    "lungs are free of opacity", "lung parenchyma is unremarkable",
)  # fmt: skip
MEDIASTINUM = (
    "mediastinal contours are normal", "normal mediastinum", "unremarkable mediastinal silhouette",
    "the mediastinum is of normal width",
)  # fmt: skip
BONES = ("bony structures are intact", "osseous structures are unremarkable", "no bone abnormality", "intact bones")
NO_DEVICES = ("no lines or tubes", "no support device", "no indwelling hardware")
NORMAL = (
    "no acute cardiopulmonary abnormality", "normal chest radiograph", "no acute disease", "unremarkable chest",
    "no active cardiopulmonary process", "normal study of the chest",
)  # fmt: skip
UNCERTAIN = ("; pneumonia cannot be excluded", ", which may represent pneumonia", "; early pneumonia is possible")
BOTH = (
    "bilateral pleural effusions, {right} on the right and {left} on the left",
    "pleural fluid on both sides: {left} left and {right} right effusion",
    "there are bilateral effusions, {left} on the left side, {right} on the right",
)  # fmt: skip
INCIDENTAL: dict[str, tuple[str, ...]] = {
    "inspiration": (
        "{count} posterior ribs project above the right hemidiaphragm", "inspiration to {count} posterior ribs",
        "lung volumes reach {count} posterior ribs",
    ),
    "turned": ("patient is rotated to the {way}", "the heart lies further {way} from rotation", "slight {way}ward rotation"),
    "bend": ("scoliosis convex to the {bend}", "curvature of the spine to the {bend}", "{bend} convex thoracic curve"),
    "spurs": ("degenerative changes of the spine", "thoracic spondylosis with osteophytes", "spurs along the spine"),
    "aorta": ("prominent aortic knob", "the aorta is unfolded", "ectatic thoracic aorta"),
    "arch": ("small aortic knob", "the aortic arch is not prominent"),
    "right dome": ("elevated right hemidiaphragm", "eventration of the right diaphragm", "the right dome stands high"),
    "left dome": ("elevated left hemidiaphragm", "eventration of the left diaphragm", "the left dome stands high"),
    "gas": ("gastric air bubble under the left dome", "gas in the stomach"),
    "thin": ("thin body habitus", "slender build"),
    "average": ("average build",),
    "large": ("large body habitus", "abundant soft tissue"),
    "bright": ("the film is underexposed", "somewhat underpenetrated film"),
    "dark": ("the film is overexposed", "somewhat overpenetrated film"),
    "marker": ("{letter} side marker in place", "{letter} marker included"),
    "views": ("{projection} projection", "{views}"),
}  # fmt: skip

"""Writing an object element by element, and its answer key with it."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.dicom_bridge.deid.answers.key import Action, Answer, Box, Expected


class Planter:
    """Sets values at one level of an object and records what must become of them.

    Args:
        answer: the object and its key.
        dataset: this level; the object itself where None.
        path: this level's place, with a point at its end; empty for the object itself.
    """

    def __init__(self, answer: Answer, dataset: Dataset | None = None, path: str = "") -> None:
        self.answer = answer
        self.ds = answer.dataset if dataset is None else dataset
        self.path = path

    def _expect(self, action: Action, keyword: str, value: str, rule: str, hipaa: str = "") -> None:
        self.answer.expected.append(Expected(action, self.path + keyword, value, rule, hipaa))

    def put(self, **values: object) -> None:
        """Set values about which the key says nothing."""
        for keyword, value in values.items():
            setattr(self.ds, keyword, value)

    def keep(self, rule: str = "not listed", **values: object) -> None:
        """Values that identify nobody: their text must stay."""
        for keyword, value in values.items():
            setattr(self.ds, keyword, value)
            parts = value if isinstance(value, list) else [value]
            text = "\\".join(str(part) for part in parts)
            self._expect(Action.TEXT_RETAINED, keyword, text, rule)

    def present(self, rule: str, **values: object) -> None:
        """Attributes that must stay, with whatever value (type 2)."""
        for keyword, value in values.items():
            setattr(self.ds, keyword, value)
            self._expect(Action.TAG_RETAINED, keyword, "", rule)

    def notnull(self, *keywords: str, rule: str = "type 1") -> None:
        """Attributes that must keep some value (type 1)."""
        for keyword in keywords:
            self._expect(Action.TEXT_NOTNULL, keyword, "", rule)

    def hide(self, keyword: str, value: object, hipaa: str, rule: str, *phi: str) -> None:
        """A value that identifies: it, or the parts named, must go.

        Args:
            keyword: the attribute.
            value: what stands there.
            hipaa: the letter.
            rule: the rule.
            phi: the identifying parts of the value; the whole value where none is given.
        """
        setattr(self.ds, keyword, value)
        for part in phi or (str(value),):
            self._expect(Action.TEXT_REMOVED, keyword, part, rule, hipaa)
            self.answer.secrets.add(part)

    def text(self, keyword: str, kept: str, *phi: tuple[str, str], form: str = "{} {}") -> None:
        """Free text with a clinical part that must stay and identifying ones that must go.

        Args:
            keyword: the attribute (Clean Descriptors applies).
            kept: the clinical part.
            phi: letter and value of each identifying part.
            form: how the two parts stand together.
        """
        tail = " ".join(value for _, value in phi)
        setattr(self.ds, keyword, form.format(kept, tail).strip() if phi else kept)
        rule = "C clean descriptors"
        self._expect(Action.TEXT_RETAINED, keyword, kept, rule)
        for letter, value in phi:
            self._expect(Action.TEXT_REMOVED, keyword, value, rule, letter)
            self.answer.secrets.add(value)

    def date(self, rule: str = "C modified dates", **values: str) -> None:
        """Dates that must not come out as they were."""
        for keyword, value in values.items():
            setattr(self.ds, keyword, value)
            self._expect(Action.DATE_SHIFTED, keyword, value[:8], rule, "C")

    def uid(self, rule: str = "U", **values: str) -> None:
        """UIDs of this patient's objects: new ones, the same everywhere."""
        for keyword, value in values.items():
            setattr(self.ds, keyword, value)
            self._expect(Action.UID_CHANGED, keyword, value, rule, "R")
            self._expect(Action.UID_CONSISTENT, keyword, value, rule, "R")

    def patient_id(self, value: str) -> None:
        """PatientID: changed, and the same new one everywhere."""
        self.hide("PatientID", value, "H", "Z/D")
        self._expect(Action.PATID_CONSISTENT, "PatientID", value, "Z/D", "H")
        self.notnull("PatientID", rule="Z/D")

    def item(self, keyword: str) -> Planter:
        """A new item at the end of a sequence."""
        if keyword not in self.ds:
            setattr(self.ds, keyword, Sequence())
        sequence = getattr(self.ds, keyword)
        item = Dataset()
        sequence.append(item)
        place = f"{self.path}{keyword}[{len(sequence) - 1}]."
        return Planter(self.answer, item, place)

    def code(self, keyword: str, value: str, scheme: str, meaning: str, *, rule: str = "") -> None:
        """A code of a public scheme: value, scheme and meaning must stay."""
        item = self.item(keyword)
        item.keep(
            rule or "not listed",
            CodeValue=value,
            CodingSchemeDesignator=scheme,
            CodeMeaning=meaning,
        )

    def private(
        self, group: int, creator: str, offset: int, vr: str, value: object, *, hipaa: str = ""
    ) -> None:
        """A private element: with a letter it must go, without one it is known safe and stays."""
        self.ds.private_block(group, creator, create=True).add_new(offset, vr, value)
        place = f"({group:04x},{creator},{offset:02x})"
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if hipaa:
            self._expect(Action.TEXT_REMOVED, place, text, "X private", hipaa)
            self.answer.secrets.add(text)
        else:
            self._expect(Action.TEXT_RETAINED, place, text, "K safe private")

    def pixels(self, *burned: Box) -> None:
        """The pixel data: what is burned into the boxes must go, all else must stay."""
        for box in burned:
            self.answer.expected.append(
                Expected(Action.PIXELS_HIDDEN, "PixelData", "", "clean pixel data", "A", box)
            )
        self.answer.expected.append(
            Expected(Action.PIXELS_RETAINED, "PixelData", "", "clean pixel data")
        )

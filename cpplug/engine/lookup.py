"""Finds the raw files and calibrations of a plan, and asks the registry for each of them once.

With steps that look at other detectors, every detector's calibrations are wanted by the units of
all the others; without this memory a plan would grow with the square of their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cpplug.api.errors import CalibrationAmbiguous, CalibrationMissing
from cpplug.api.instrument import ExposureInfo
from cpplug.engine.calibs import CalibRef
from cpplug.engine.siblings import Sibling
from cpplug.store import Repository
from cpplug.store.records import DataId, DatasetRow, RawFile


class Lookup:
    """What one plan has found so far.

    Parameters
    ----------
    repo, instrument, inputs
        Where to look: repository, instrument's name, input collections.
    candidate
        By detector, a product under test, which takes the place of any other of its type.
    """

    def __init__(
        self,
        repo: Repository,
        instrument: str,
        inputs: Sequence[str],
        candidate: Mapping[int, DatasetRow],
    ) -> None:
        self._repo = repo
        self._instrument = instrument
        self._inputs = inputs
        self._candidate = candidate
        holding = repo.raw_runs(instrument)
        runs = [row.name for row in repo.flatten(inputs) if row.name in holding]
        # Inputs without any raw frame say nothing about where the raw frames are.
        self._raw_runs = runs or None
        self._raws: dict[int, dict[int, RawFile | None]] = {}
        self._calibs: dict[tuple[str, int, str, int], CalibRef] = {}
        self._siblings: dict[tuple[int, int], Sibling | None] = {}

    def prepare(self, detectors: Sequence[int], exposures: Sequence[int]) -> None:
        """Find the raw files of exposures of these detectors, together."""
        for detector in detectors:
            known = self._raws.setdefault(detector, {})
            unknown = [number for number in exposures if number not in known]
            if unknown:
                found = self._repo.raw_paths(self._instrument, detector, unknown, self._raw_runs)
                known.update({number: found.get(number) for number in unknown})

    def raw(self, detector: int, exposure: int) -> RawFile | None:
        """Return a raw file that :meth:`prepare` looked for; None when there is none."""
        return self._raws[detector][exposure]

    def calib(self, dataset_type: str, detector: int, info: ExposureInfo) -> CalibRef:
        """Return the calibration of this type for an exposure of a detector.

        Raises
        ------
        CalibrationMissing, CalibrationAmbiguous
            When there is none, or more than one.
        """
        key = (dataset_type, detector, info.physical_filter, info.middle)
        if key not in self._calibs:
            self._calibs[key] = self._find(dataset_type, detector, info)
        return self._calibs[key]

    def _find(self, dataset_type: str, detector: int, info: ExposureInfo) -> CalibRef:
        forced = self._candidate.get(detector)
        if forced is not None and forced.dataset_type == dataset_type:
            return self._ref(forced, forced.run, None, None)
        data_id = DataId(
            instrument=self._instrument, detector=detector, physical_filter=info.physical_filter
        )
        found = self._repo.find(dataset_type, data_id, self._inputs, info.middle)
        return self._ref(found.dataset, found.collection, found.begin, found.end)

    def sibling(self, detector: int, info: ExposureInfo, needed: Sequence[str]) -> Sibling | None:
        """Return a detector of an exposure for others to look at; None without a raw file.

        A calibration that is missing or ambiguous is noted and no error yet: whether the detector
        is looked at is not known before a step asks for it.
        """
        key = (detector, info.exposure)
        if key not in self._siblings:
            raw = self.raw(detector, info.exposure)
            self._siblings[key] = (
                None if raw is None else self._make_sibling(raw, detector, info, needed)
            )
        return self._siblings[key]

    def _make_sibling(
        self, raw: RawFile, detector: int, info: ExposureInfo, needed: Sequence[str]
    ) -> Sibling:
        calibs, missing = [], ""
        for dataset_type in needed:
            try:
                calibs.append(self.calib(dataset_type, detector, info))
            except (CalibrationMissing, CalibrationAmbiguous) as error:
                missing = missing or error.message
        return Sibling(
            detector=detector,
            raw=str(raw.path),
            sha256=raw.sha256,
            calibs=tuple(calibs),
            missing=missing,
        )

    def _ref(
        self, dataset: DatasetRow, collection: str, begin: int | None, end: int | None
    ) -> CalibRef:
        return CalibRef(
            dataset_type=dataset.dataset_type,
            dataset=dataset.id,
            path=str(self._repo.root / dataset.path),
            sha256=dataset.sha256,
            collection=collection,
            begin=begin,
            end=end,
            detector=dataset.data_id.detector,
            physical_filter=dataset.data_id.physical_filter,
        )

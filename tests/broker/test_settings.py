"""What pool.toml may hold: each mistake is one line that names file, table and mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.settings import load

MODEL = '[models.m]\nartifact = "x"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MODEL + "retire = 3", "[models.m]: retire = 3 is no table; write [models.m.retire], and its keys below"),
        ("[models]\nx = 3", "[models]: x = 3 is no table; write [models.x], and its keys below"),
        ("models = 3", ": models = 3 is no table; write [models.NAME], and its keys below"),
        ('[[models]]\nartifact = "x"', ": [[models]] is a list of tables; write [models.NAME], and its keys below"),
        ("redis = 3", ": redis = 3 is no table; write [redis], and its keys below"),
        ("[models.m]\nslots = 1", "[models.m]: artifact is missing; set it to the model's folder"),
        ("[slot]\nhang_factor = inf", "[slot]: hang_factor = inf must be a finite number"),
        ("[slot]\nhang_factor = nan", "[slot]: hang_factor = nan must be a finite number"),
        ("[slot]\nhang_floor_s = 0", "[slot]: hang_floor_s = 0 must be above 0"),
        (
            '[models.m]\nartifact = "m"\nrow_buckets = [4, 2]',
            "[models.m]: row_buckets = [4, 2] must be sizes that ascend from 1 or more",
        ),
        ('[models.m]\nartifact = "m"\nrow_buckets = 4', "[models.m]: row_buckets = 4 must be a list of whole numbers"),
        (
            MODEL + "max_rows = 4\nrow_buckets = [1, 16]",
            "[models.m]: row_buckets = [1, 16] must end at max_rows, 4, or below",
        ),
        (MODEL + 'row_buckets = ["a"]', "[models.m]: row_buckets = [...] must be a list of whole numbers"),
        ("[slot]\nthreads = 0", "[slot]: threads = 0 must be above 0"),
        ("[slot]\ndrain_s = -1.5", "[slot]: drain_s = -1.5 must be 0 or more"),
        ("[queue]\nmax_jobs = 0", "[queue]: max_jobs = 0 must be above 0"),
        ('[pool]\ntrusted = ""', '[pool]: trusted = "" must be a path; leave the key out for the default'),
        ('[retire]\noverlap = "yes"', '[retire]: overlap = "yes" must be true or false'),
        ('[redis]\nfsync = "no"', '[redis]: fsync = "no" must be "everysec" or "always"'),
        ("[redis]\nurl = ['redis://:secret@h']", "[redis]: url = [...] must be text in quotes"),
        (MODEL + "slots = -1", "[models.m]: slots = -1 must be 0 or more"),
        (MODEL + 'slots = "2"', '[models.m]: slots = "2" must be a whole number'),
        (MODEL + "retire = { max_job = 1 }", '[models.m.retire]: unknown key "max_job"; did you mean "max_jobs"?'),
    ],
)
def test_a_mistake_is_one_line_with_its_table_and_mend(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), environ={})
    assert str(caught.value).removeprefix(str(file)).lstrip(" ") == says


def test_row_buckets_may_end_at_max_rows_or_below_and_stand_alone(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    for text in ("max_rows = 4\nrow_buckets = [1, 4]", "max_rows = 16\nrow_buckets = [1, 4]", "row_buckets = [1, 16]"):
        file.write_text(MODEL + text)
        assert load(str(file), environ={}).models["m"].row_buckets[0] == 1


def test_zero_switches_a_limit_of_retire_off(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(MODEL + "slots = 0\nretire = { max_jobs = 0, min_life_s = 0, overlap = true }")
    chosen = load(str(file), environ={}).retire_of("m")
    assert (chosen.max_jobs, chosen.min_life_s, chosen.overlap) == (0, 0, True)


def test_whole_numbers_that_a_model_overrides_stay_whole(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(MODEL + "retire = { samples = 2, max_jobs = 10 }")
    chosen = load(str(file), environ={}).retire_of("m")
    assert repr((chosen.samples, chosen.max_jobs)) == "(2, 10)"  # a float equals it, and is no length of a window

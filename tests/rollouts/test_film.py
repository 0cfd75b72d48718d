"""What is drawn on a frame, and what a contact sheet is made of."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from rollouts.scripted import DRAFT, Reply

from flashtrail.base.errors import UserError
from flashtrail.rollouts.episode import Query
from flashtrail.rollouts.film import Film
from flashtrail.rollouts.guards import GuardRecord
from flashtrail.simulators.observation import POLICY_PIXELS, Observation
from flashtrail.tables import pictures
from flashtrail.tables.pictures import SHEET_FRAMES, STRIP

GREY = np.full((224, 224, 3), 90, np.uint8)
SEEN = Observation(GREY, GREY, np.zeros(8), "do it")


def asked(query=0, hit=False, found=None, given=SEEN) -> Query:
    return Query(query, given, Reply(np.zeros((50, 7)), 9, DRAFT), hit, found or GuardRecord())


@pytest.mark.parametrize(
    ("hit", "found", "texts"),
    [
        (False, GuardRecord(healthy=True), ["query 3  draft  accepted 9", "spared: noisy", "mask: passed"]),
        (True, GuardRecord(healthy=False), ["query 3  draft  accepted 9", "hit: noisy", "mask: missed"]),
        (True, GuardRecord(healthy=False, replaced=True, cache_age=2), [..., "hit: noisy", "mask: replaced, age 2"]),
        (True, GuardRecord(healthy=False, masked=True), [..., "hit: noisy", "mask: declared missing"]),
    ],
)
def test_route_prefix_condition_and_guard_are_written_on(hit, found, texts):
    words = Film("x.mp4", "noisy", "mask").labels(asked(3, hit, found))
    assert all(text in (..., word[2]) for text, word in zip(texts, words, strict=True))


def test_a_clean_arm_without_a_guard_says_only_what_was_answered():
    assert len(Film("x.mp4", "clean", "none").labels(asked())) == 1


def test_the_pictures_are_those_that_the_policy_saw_and_a_missing_view_is_crossed_out():
    film = Film("x.mp4")
    film.add(asked())
    film.add(asked(1, given=dataclasses.replace(SEEN, wrist_missing=True)))
    plain, crossed = (frame[STRIP:] for frame in film._frames)
    assert (plain == 90).all() and (crossed[:, :224] == 90).all()
    assert (crossed[4, 228] != 90).any() and (crossed[219, 228] != 90).any() and (crossed[112, 336] != 90).any()


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 4, 2), (40, 4, 3)])
def test_a_sheet_shows_the_whole_episode_in_few_pictures(count, columns, rows):
    film = Film("x.mp4")
    for query in range(count):
        shade = np.full_like(GREY, 20 + 5 * query)
        film.add(asked(query, given=dataclasses.replace(SEEN, agent=shade, wrist=shade)))
    sheet = np.asarray(Image.open(io.BytesIO(film.sheet())))
    assert sheet.shape == (rows * 128, columns * 224, 3)
    last = min(count, SHEET_FRAMES) - 1
    shades = [sheet[i // columns * 128 + 90, i % columns * 224 + 50].mean() for i in (0, last)]
    assert shades == pytest.approx([20, 20 + 5 * (count - 1)], abs=4)


def test_a_frame_is_laid_out_as_its_readers_take_it_to_be():
    assert POLICY_PIXELS == pictures.PIXELS and (POLICY_PIXELS + STRIP) % 16 == 0


def test_what_was_sent_lies_beside_the_film_and_a_short_chunk_ends_in_nothing(tmp_path):
    film = Film(tmp_path / "x.mp4")
    for query, length in enumerate((50, 12)):
        state = np.arange(8.0) + query
        reply = Reply(np.full((length, 7), 0.25 * query), 9, DRAFT)
        film.add(dataclasses.replace(asked(query, given=dataclasses.replace(SEEN, state=state)), reply=reply))
    film.write()
    sent = pictures.read_sent(tmp_path / "x.npz")
    assert sent.prompts == ["do it", "do it"] and sent.states[1].tolist() == list(range(1, 9))
    assert (sent.chunks[1, :12] == 0.25).all() and np.isnan(sent.chunks[1, 12:]).all() and (sent.chunks[0] == 0).all()


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"a film"])
def test_what_is_not_that_is_one_line(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz: not what a policy was sent"):
        pictures.read_sent(tmp_path / "x.npz")

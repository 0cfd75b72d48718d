"""Every fault of a file of demonstrations is one line that names it; a clean file says what it holds."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.training.lift import check_dataset


def checked(path, capsys) -> tuple[int, list[str]]:
    code = cli.main(["check-dataset", str(path)])
    printed = capsys.readouterr()
    return code, (printed.out + printed.err).splitlines()


def test_a_clean_file_prints_its_counts(dataset, capsys):
    code, lines = checked(dataset, capsys)
    assert code == 0
    steps = sum(4 + number % 3 for number in range(14))
    assert lines == [
        f"{dataset}: 14 demonstrations, 13 verified, 12 in mask/train, 1 in mask/valid; {steps} steps; "
        "1 instructions; robomimic: train.hdf5_load_next_obs: false"
    ]


def replace(group, name, value):
    del group[name]
    group[name] = value


def names(*entries):
    return np.array([entry.encode() for entry in entries], "S16")


def external(file, tmp):
    with h5py.File(tmp / "elsewhere.hdf5", "w") as other:
        other["actions"] = np.zeros((4, 7), np.float32)
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink(str(tmp / "elsewhere.hdf5"), "/actions")


def virtual(file, tmp):
    with h5py.File(tmp / "elsewhere.hdf5", "w") as other:
        other["rewards"] = np.zeros(4, np.float32)
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp / "elsewhere.hdf5"), "rewards", (4,))
    del file["data/demo_0/rewards"]
    file["data/demo_0"].create_virtual_dataset("rewards", layout)


def raw_storage(file, tmp):
    (tmp / "secret").write_bytes(b"0" * 16)
    del file["data/demo_0/rewards"]
    file["data/demo_0"].create_dataset("rewards", (4,), "f4", external=[(str(tmp / "secret"), 0, 16)])


def unknown_type(group, name):
    """An attribute of HDF5's time type, which numpy has not."""
    if name in group.attrs:
        del group.attrs[name]
    h5py.h5a.create(group.id, name.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))


def large_block(file, _):
    """1 GiB of zeros in a kilobyte, which a reader would unpack whole."""
    del file["data/demo_1/rewards"]
    shape = {"shape": (5,), "maxshape": (None,), "chunks": (2**28,)}
    file["data/demo_1"].create_dataset("rewards", dtype="f4", compression="gzip", **shape)


FAULTS = {
    "no data": (lambda f, _: f.__delitem__("data"), "data is missing"),
    "no env_args": (lambda f, _: f["data"].attrs.__delitem__("env_args"), "data@env_args is missing"),
    "env_args of bytes": (
        lambda f, _: f["data"].attrs.__setitem__("env_args", np.bytes_(b"{}")),
        "data@env_args is missing or not text",
    ),
    "env_args not JSON": (lambda f, _: f["data"].attrs.__setitem__("env_args", "{"), "data@env_args is not JSON"),
    "env_args nested": (lambda f, _: f["data"].attrs.__setitem__("env_args", "[" * 99999), "data@env_args is not JSON"),
    "env_args lacking": (
        lambda f, _: f["data"].attrs.__setitem__("env_args", json.dumps({"env_name": "Lift", "env_kwargs": {}})),
        "data@env_args has no type",
    ),
    "no total": (lambda f, _: f["data"].attrs.__delitem__("total"), "data@total is missing"),
    "wrong total": (lambda f, _: f["data"].attrs.__setitem__("total", 3), "data@total is 3, but"),
    "another name": (lambda f, _: f["data"].move("demo_2", "episode_2"), "data/episode_2: the name is not demo_N"),
    "no actions": (lambda f, _: f["data/demo_1"].__delitem__("actions"), "data/demo_1: actions is missing"),
    "action of six": (
        lambda f, _: replace(f["data/demo_1"], "actions", np.zeros((5, 6), "f4")),
        "data/demo_1: actions are float32 (5, 6), not floats (T, 7)",
    ),
    "no step": (lambda f, _: replace(f["data/demo_1"], "actions", np.zeros((0, 7), "f4")), "actions have 0 steps"),
    "NaN": (lambda f, _: f["data/demo_1/actions"].__setitem__((0, 0), np.nan), "actions are not all numbers"),
    "too far": (lambda f, _: f["data/demo_1/actions"].__setitem__((0, 0), 1.5), "actions are not all numbers"),
    "no num_samples": (
        lambda f, _: f["data/demo_1"].attrs.__delitem__("num_samples"),
        "data/demo_1: @num_samples is missing",
    ),
    "num_samples is not T": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("num_samples", 9),
        "data/demo_1: @num_samples is 9, but actions have 5 steps",
    ),
    "no episode_length": (
        lambda f, _: f["data/demo_1"].attrs.__delitem__("episode_length"),
        "@episode_length is missing",
    ),
    "instruction of bytes": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("language_instruction", np.bytes_(b"Lift")),
        "data/demo_1: @language_instruction is bytes",
    ),
    "no instruction": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("language_instruction", " "),
        "data/demo_1: @language_instruction is missing or empty",
    ),
    "success as text": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("success", "yes"),
        "data/demo_1: @success is missing or not true or false",
    ),
    "no verified_success": (
        lambda f, _: f["data/demo_1"].attrs.__delitem__("verified_success"),
        "data/demo_1: @verified_success is missing",
    ),
    "no model": (lambda f, _: f["data/demo_1"].attrs.__delitem__("model_file"), "data/demo_1: @model_file is missing"),
    "no obs": (lambda f, _: f["data/demo_1"].__delitem__("obs"), "data/demo_1: obs is missing"),
    "no wrist": (
        lambda f, _: f["data/demo_1/obs"].__delitem__("robot0_eye_in_hand_image"),
        "data/demo_1: obs/robot0_eye_in_hand_image is missing",
    ),
    "84 pixels": (
        lambda f, _: replace(f["data/demo_1/obs"], "agentview_image", np.zeros((5, 84, 84, 3), "u1")),
        "obs/agentview_image is uint8 (5, 84, 84, 3), not uint8 (T, 112, 112, 3)",
    ),
    "floats": (
        lambda f, _: replace(f["data/demo_1/obs"], "agentview_image", np.zeros((5, 112, 112, 3), "f4")),
        "obs/agentview_image is float32",
    ),
    "fewer pictures": (
        lambda f, _: replace(f["data/demo_1/obs"], "agentview_image", np.zeros((4, 112, 112, 3), "u1")),
        "obs/agentview_image is uint8 (4, 112, 112, 3), but actions have 5 steps",
    ),
    "pictures of variable length": (
        lambda f, _: (
            f["data/demo_1/obs"].__delitem__("agentview_image"),
            f["data/demo_1/obs"].create_dataset("agentview_image", (5,), h5py.vlen_dtype(np.uint8)),
        ),
        "obs/agentview_image has rows of variable length",
    ),
    "state of seven": (
        lambda f, _: replace(f["data/demo_1/obs"], "state", np.zeros((5, 7), "f4")),
        "obs/state is float32 (5, 7), not numbers (T, 8)",
    ),
    "a longer rewards": (
        lambda f, _: replace(f["data/demo_1"], "rewards", np.zeros(6, "f4")),
        "rewards is float32 (6), but actions have 5 steps",
    ),
    "the document's images": (
        lambda f, _: f["data/demo_1"].__setitem__("images", np.zeros((5, 4, 4, 3), "u1")),
        "images lie beside obs",
    ),
    "half a next_obs": (
        lambda f, _: f["data/demo_1"].__setitem__("next_obs/state", np.zeros((5, 8), "f4")),
        "next_obs/agentview_image is missing",
    ),
    "no mask": (lambda f, _: f.__delitem__("mask"), "mask/train is missing"),
    "no valid": (lambda f, _: f.__delitem__("mask/valid"), "mask/valid is missing"),
    "unverified in train": (
        lambda f, _: replace(f, "mask/train", names("demo_2", "demo_3")),
        "mask/train names demo_3, which is not verified",
    ),
    "nobody in train": (
        lambda f, _: replace(f, "mask/train", names("demo_77")),
        "mask/train names demo_77, which is not there",
    ),
    "twice": (lambda f, _: replace(f, "mask/train", names("demo_2", "demo_2")), "names a demonstration twice"),
    "in both": (
        lambda f, _: replace(f, "mask/valid", names("demo_0")),
        "mask/train and mask/valid share demo_0",
    ),
    "mask of text": (
        lambda f, _: (
            f.__delitem__("mask/train"),
            f.create_dataset("mask/train", data=["demo_0"], dtype=h5py.string_dtype()),
        ),
        "not a list of names as bytes",
    ),
    "link to another file": (external, "data/demo_0: actions is a link"),
    "soft link in a circle": (
        lambda f, _: replace(f, "data/demo_0/obs", h5py.SoftLink("/data/demo_0")),
        "data/demo_0: obs is a link",
    ),
    "virtual": (virtual, "data/demo_0: rewards keeps its values in another file"),
    "raw storage": (raw_storage, "data/demo_0: rewards keeps its values in another file"),
    "a group for an array": (
        lambda f, _: (f.__delitem__("data/demo_0/actions"), f.create_group("data/demo_0/actions")),
        "data/demo_0: actions is not a dataset",
    ),
    "NaN in a state": (
        lambda f, _: f["data/demo_1/obs/state"].__setitem__((0, 0), np.nan),
        "data/demo_1: obs/state has values that are not finite",
    ),
    "endless state": (
        lambda f, _: f["data/demo_1/executed_actions"].__setitem__((0, 0), np.inf),
        "data/demo_1: executed_actions has values that are not finite",
    ),
    "no task": (lambda f, _: f["data/demo_1"].attrs.__delitem__("task"), "data/demo_1: @task is missing"),
    "task of text": (lambda f, _: f["data/demo_1"].attrs.__setitem__("task", "lift"), "@task is missing or not"),
    "long instruction": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("language_instruction", "lift " * 1000),
        "@language_instruction has 5000 characters; a request may have 4096",
    ),
    "verified twice": (
        lambda f, _: f["data/demo_1"].attrs.__setitem__("verified_success", [True, False]),
        "data/demo_1: @verified_success is missing or not true or false",
    ),
    "a length of no type": (
        lambda f, _: unknown_type(f["data/demo_1"], "num_samples"),
        "data/demo_1: @num_samples is missing or not a whole number",
    ),
    "a name of no alphabet": (
        lambda f, _: h5py.h5g.create(f["data"].id, b"demo_\xff"),
        "the name is not demo_N",
    ),
    "an observation of no alphabet": (
        lambda f, _: h5py.h5g.create(f["data/demo_1/obs"].id, b"\xff"),
        "the name is not UTF-8 text",
    ),
    "a large block": (large_block, "data/demo_1: rewards has chunks of 1024 MiB"),
    "more observations than steps": (
        lambda f, _: f["data/demo_1"].__setitem__("obs/depth", np.zeros((6, 4), "f4")),
        "obs/depth is float32 (6, 4), but actions have 5 steps",
    ),
    "another mask": (
        lambda f, _: f.__setitem__("mask/20_percent", names("demo_77")),
        "mask/20_percent names demo_77, which is not there",
    ),
    "another mask elsewhere": (
        lambda f, tmp: f.__setitem__("mask/all", h5py.ExternalLink(str(tmp / "elsewhere.hdf5"), "/m")),
        "mask/all is a link",
    ),
    "empty mask": (lambda f, _: replace(f, "mask/train", np.array([], "S16")), "mask/train is empty"),
    "an array for a group": (
        lambda f, _: (f.__delitem__("data/demo_0"), f.__setitem__("data/demo_0", np.zeros(3))),
        "demo_0 is not a group",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line(name, dataset, tmp_path, capsys):
    spoil, said = FAULTS[name]
    with h5py.File(dataset, "r+") as file:
        spoil(file, tmp_path)
    code, lines = checked(dataset, capsys)
    assert code == 1
    assert any(said in line for line in lines[:-1]), lines
    assert lines[-1].endswith(f"{len(lines) - 1} fault{'s' * (len(lines) != 2)}")
    assert all(line.startswith(str(dataset)) for line in lines)


def test_an_endless_array_is_not_read(dataset, capsys):
    """10^12 steps that take no place on the disk."""
    with h5py.File(dataset, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1"].create_dataset("actions", (10**12, 7), "f4", chunks=(1024, 7))
    assert checked(dataset, capsys)[0] == 1


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_what_is_not_hdf5(content, tmp_path, capsys):
    (tmp_path / "demos.hdf5").write_bytes(content)
    code, lines = checked(tmp_path / "demos.hdf5", capsys)
    assert code == 2
    assert len(lines) == 1
    assert "not an HDF5 file" in lines[0]


def test_bytes_changed_anywhere_never_do_worse(dataset):
    whole, rng = dataset.read_bytes(), np.random.default_rng(0)
    results = set()
    for _ in range(60):
        changed = bytearray(whole)
        for at in rng.integers(0, 80_000, 3):  # where its groups and attributes are
            changed[at] = rng.integers(256)
        dataset.write_bytes(changed)
        try:
            results.add(bool(check_dataset.check(dataset)[0]))
        except UserError:
            results.add("damaged")
    assert results == {True, False, "damaged"}


def test_a_file_that_is_being_written_is_not_called_damaged(dataset, capsys):
    ask = "import sys; from flashtrail import cli; sys.exit(cli.main(['check-dataset', sys.argv[1]]))"
    with h5py.File(dataset, "r+"):
        asked = subprocess.run([sys.executable, "-c", ask, str(dataset)], capture_output=True, text=True)
    assert asked.returncode == 2
    assert "is being written by another process: wait for it" in asked.stderr


def test_a_folder_without_a_set_is_no_set_of_demonstrations(tmp_path, capsys):
    code, lines = checked(tmp_path, capsys)
    assert code == 1 and lines[0].startswith(f"{tmp_path}: our training: {tmp_path} is no set")


def test_no_file(tmp_path, capsys):
    code, lines = checked(tmp_path / "demos.hdf5", capsys)
    assert (code, len(lines)) == (2, 1)
    assert "no such file" in lines[0]


def test_many_faults_are_counted_not_all_printed(dataset, capsys):
    with h5py.File(dataset, "r+") as file:
        for demo in file["data"].values():
            for name in list(demo["obs"]):
                del demo["obs"][name]
    code, lines = checked(dataset, capsys)
    assert code == 1
    assert len(lines) == check_dataset._SHOWN + 1
    assert lines[-1].endswith(f"{14 * 7} faults")

"""Names in the experiment file: data that may hold anything that can be shown, except where they are also folders."""

from __future__ import annotations

import pytest
from experiment.test_config import data  # noqa: F401

from flashtrail.base import names
from flashtrail.base.errors import UserError
from flashtrail.experiment import config

ODD = ["a/b c", "../../x", "..", "Zürich", "a{b}", "[a-z]+|x", "a'b\"c", "$(ls)", "-rf", "x" * 200, "a=2Fb", "A", "1"]


def test_names_of_arms_conditions_and_guards_are_data(data):  # noqa: F811
    more = {name: {"policy": "pi0_nano", "condition": name, "guard": name} for name in ODD}
    odd = config.merge(
        data,
        {
            "conditions": {name: {"kind": "none"} for name in ODD},
            "guards": {name: {"kind": "none"} for name in ODD},
            "arms": more,
        },
    )
    experiment = config.parse(odd)
    for name in ODD:
        slice_ = experiment.arm(name)
        assert slice_["arm"] == slice_["condition"]["name"] == slice_["guard"]["name"] == name
    assert len({names.file_name(arm) for arm in experiment.all_arms}) == len(experiment.all_arms)


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("policies", "a/b c", "policies.a/b c: this name also names result files: call it 'a_b_c'"),
        ("policies", "..", "call it 'policy'"),
        ("policies", "Zürich", "call it 'Z_rich'"),
        ("arms", "index.html", "arms.index.html: names that end in .html are reserved"),
        ("arms", "", "a name has 1 to 200 printable characters"),
        ("conditions", " ", "a name has 1 to 200 printable characters"),
        ("guards", "a\nb", "a name has 1 to 200 printable characters"),
        ("arms", "x" * 201, "a name has 1 to 200 printable characters"),
    ],
)
def test_a_name_that_cannot_be_is_one_line_that_says_which_can(data, path, name, words):  # noqa: F811
    value = {"policies": data["policies"]["pi0_nano"], "arms": data["arms"]["clean"]}.get(path, {"kind": "none"})
    with pytest.raises(UserError) as caught:
        config.parse({**data, path: {**data[path], name: value}})
    assert words in str(caught.value)

"""signals.h: order, scale, limits and center of each signal are those of the table, by the compiler that a robot would use."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.bundle import SIGNALS, Bundle
from balance_hil.signals_header import member_names, signals_header
from balance_hil.spec import ActionMap, PolicySpec, Signal

PROGRAM = """#include "signals.h"
#include <cstdio>
int main() {
  hil_signals::Observation o{};
  float inputs[hil_signals::kObservations];
  MAIN
}
"""


def signal(index, name, unit="", **given):
    return Signal(**{"index": index, "name": name, "unit": unit, "min": None, "max": None} | given)


def run(folder, header, main):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: make setup")
    (folder / "signals.h").write_text(header)
    (folder / "main.cpp").write_text(PROGRAM.replace("MAIN", main))
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror"]
    done = subprocess.run(["g++", *flags, folder / "main.cpp", "-o", folder / "p"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array(subprocess.run([folder / "p"], capture_output=True, text=True, check=True).stdout.split(), np.float32)


def test_order_scale_limits_and_center(tmp_path):
    spec = PolicySpec(
        environment="",
        observation=(signal(0, "pitch", "rad", scale=0.35, min=-1.0, max=1.0), signal(1, "rate", "rad/s", scale=4.0)),
        action=(signal(0, "valve", "%", min=-1.0, max=1.0, scale=50.0), signal(1, "force", "N", min=-1.0, max=1.0, scale=-3.0)),
        control_period_s=0.02,
        action_map=ActionMap.of_box(np.array([0.0, -3.0]), np.array([100.0, 3.0])),
    )
    fill = "o.pitch_rad = 0.7f; o.rate_rad_s = 10.f; ToPolicy(o, inputs); const float y[] = {-0.5f, 2.f};"
    show = 'const auto a = hil_signals::FromPolicy(y); std::printf("%g %g %g %g", '
    main = f"{fill} {show} double(inputs[0]), double(inputs[1]), double(a.valve), double(a.force_n));"
    assert run(tmp_path, signals_header(spec, "0" * 12), main).tolist() == [1.0, 2.5, 25.0, -3.0]


def test_a_discrete_action_is_the_first_of_the_largest_outputs_and_nan_stays(tmp_path):
    spec = PolicySpec(
        environment="",
        observation=(signal(0, "x", min=-1.0, max=1.0),),
        action=tuple(signal(i, f"act_{i}") for i in range(3)),
        control_period_s=0.02,
        action_map=ActionMap(kind="discrete", dtype="int64"),
    )
    main = (
        'o.x = __builtin_nanf(""); ToPolicy(o, inputs); const float y[] = {1, 5, 5};'
        'std::printf("%zu %g", hil_signals::FromPolicy(y).choice, double(inputs[0]));'
    )
    choice, value = run(tmp_path, signals_header(spec, "0" * 12), main)
    assert choice == 1
    assert np.isnan(value)


def test_any_name_becomes_an_identifier_of_its_own():
    names = ("pitch", "speed_rad_s", "class", "2nd", "a b", "a-b", "", "Übel\\\n*/")
    units = ("°", "rad/s", "1", "", "", "", "m/s^2", "")
    made = member_names([signal(i, name, unit) for i, (name, unit) in enumerate(zip(names, units, strict=True))])
    assert made == ["pitch", "speed_rad_s", "signal_class", "signal_2nd", "a_b", "a_b_5", "m_s2", "bel"]


def test_a_text_cannot_leave_its_comment(tmp_path, ppo_bundle: Bundle):
    spec = replace(ppo_bundle.spec, observation=(signal(0, "x", positive="a\n#error b\\"),))
    assert (
        run(tmp_path, signals_header(spec, "0" * 12), 'o.x = 1; ToPolicy(o, inputs); std::printf("%g", double(inputs[0]));') == 1
    )


def test_every_shipped_bundle_has_that_of_its_table(ppo_bundle: Bundle):
    for folder in ppo_bundle.path.parent.iterdir():
        if (folder / "bundle.json").is_file():
            bundle = Bundle.load(folder)
            assert bundle.file(SIGNALS).read_text() == signals_header(bundle.spec, bundle.id)
            assert all(s.positive for s in (*bundle.spec.observation, *bundle.spec.action))

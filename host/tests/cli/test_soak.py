"""``hil soak`` on the native board."""

import json
import sys

import pytest

from balance_hil import cli

from .. import contract

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")


@pytest.fixture
def hil(monkeypatch, capsys, tmp_path, ppo_bundle):
    """Soaks the shipped policy; returns exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["hil", "soak", str(ppo_bundle.path), "--hours", "0.0004", "--seconds", "0.5", *arguments]
        )
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return exited.value.code, out, err

    return run


def test_a_board_that_holds(hil):
    code, out, err = hil("--json")
    document = json.loads(out)
    contract.check("soak", document)
    (soak,) = document["soaks"]
    assert code == 0, soak["verdict"]
    assert soak["equals_tflm"] == {"checked": soak["steps"] - soak["lost"], "differing": 0, "emulated": False}
    assert soak["growth"]["emulator"]["descriptors"] == 0
    assert err.count("round trip") == len(soak["minutes"]) > 1, "a line for each"


def test_a_bad_link_is_seen_and_recorded(hil, tmp_path):
    code, out, err = hil("--fault", "drop:rate=0.05")
    assert code in (0, 1)
    assert "misses by host, board, link" in out
    assert out.splitlines()[-1].startswith("native: ")
    assert "anomalies, recorded in recordings/" in err
    assert list(tmp_path.glob("recordings/*-ppo-native-soak/*.mcap"))

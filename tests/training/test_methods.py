"""From a spec to a method, or to one line that says what is wrong and what to do."""

import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from torch import nn

from shoal.training import methods
from shoal.training.baselines import alone, synchronous
from shoal.training.checkpoint import State
from shoal.training.diloco import Diloco
from shoal.training.loop import Outer
from shoal.training.methods import MemberOptions
from shoal.training.ports import BytesReader
from shoal.training.spec import Setting, Spec
from shoal.training.zeroth import Zeroth

ROOT = Path(__file__).parents[2]
SPEC = Spec(creator="1" * 52, nonce=bytes(16), model="gpt-0.2m")


def changed(**fields: object) -> Spec:
    return msgspec.structs.replace(SPEC, **fields)


def reason(spec: Spec, options: MemberOptions | None = None) -> str:
    result = methods.build(spec, options or MemberOptions())
    assert isinstance(result, str), result
    assert "\n" not in result
    return result


def test_a_good_spec_becomes_its_method() -> None:
    assert isinstance(methods.build(SPEC, MemberOptions()), Diloco)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"method": "telepathy"}, "diloco"),
        ({"method_version": 2}, "needs a newer Shoal"),
        ({"model": "gpt-9000m"}, "gpt-0.2m"),
        ({"data": "tolstoy"}, "shakespeare"),
        ({"settings": {"step": 5}}, "step"),
        ({"settings": {"rule": "krum"}}, "rule krum takes 3 members or more, members_min is 1"),
        ({"settings": {"rule": "flag"}, "members_max": 65}, "rule flag takes up to 64 members, members_max is 65"),
        ({"payload_bytes_max": 1000}, "payload_bytes_max is 1000"),
        ({"settings": {"batch_size": 65_536, "context": 65_536}}, "GiB of memory"),
        ({"settings": {"batch_size": 1, "context": 2048, "pieces": 4096}}, "pieces"),
        ({"model": "custom:00"}, "shoal.join"),
    ],
)
def test_what_cannot_be_says_why(fields: dict[str, object], expected: str) -> None:
    assert expected in reason(changed(**fields))


def test_the_largest_model_needs_a_spec_that_allows_its_payload() -> None:
    spec = changed(model="gpt-124m")
    assert "499253" in reason(spec)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda:999", "CUDA devices"), ("mps", "not supported"), ("tpu9", "not one that torch knows")],
)
def test_a_device_that_is_not_there_is_named(device: str, expected: str) -> None:
    assert expected in reason(SPEC, MemberOptions(device=device))


def test_a_bad_text_of_ones_own_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert reason(SPEC, MemberOptions(data_path=path)).startswith(f"data file {path} is empty: ")


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_that_only_looks_at_specs_loads_neither_torch_nor_numpy() -> None:
    program = "import sys, shoal.training.methods; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert run_python(program) == "[]\n"


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_member_gets_to_its_first_state_before_torch_is_loaded_and_trains_once_it_is(device: str) -> None:
    program = f"""
import sys
from shoal.training import methods
from shoal.training.spec import Spec
spec = Spec(creator="1" * 52, nonce=bytes(16))
method = methods.build(spec, methods.MemberOptions(device="{device}"))
state, _ = method.start(spec)
early = "torch" in sys.modules
methods.load_trainer()
print(early, "torch" in sys.modules, sorted(method.evaluate(state)))
"""
    assert run_python(program) == "False True ['validation_loss']\n"


def test_without_torch_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["torch"] = None
from shoal.training import methods
from shoal.training.spec import Spec
print(methods.build(Spec(creator="1" * 52, nonce=bytes(16)), methods.MemberOptions()))
"""
    assert run_python(program) == f"{methods.TORCH_MISSING}\n"


def test_payloads_are_checked_and_applied_without_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
import numpy as np
from shoal.training.checkpoint import State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings
from shoal.training.method import Share
from shoal.training.payload import write_payload
from shoal.training.ports import BytesReader
from shoal.training.spec import Spec
from shoal.training.tensors import TensorShape

class Shapes:
    layout = (TensorShape("w", (2, 3)),)

spec = Spec(creator="1" * 52, nonce=bytes(16))
method = Diloco(spec, DilocoSettings(), Shapes())
payload = BytesReader(b"".join(write_payload("float32", Shapes.layout, np.ones(6, np.float32))))
state = State(0, np.zeros(6, np.float32), np.zeros(6, np.float32))
print(method.check(spec, 1, "a", 5, payload))
print(method.apply(state, [Share(1, "a", 5, 5, 0, payload)])[0].parameters.astype(float).round(2).tolist())
"""
    assert run_python(program) == f"None\n{[-1.33] * 6}\n"


def test_memory_is_asked_of_the_system() -> None:
    available = methods.available_memory_bytes()
    assert available is None or 2**20 < available < 2**50


def test_a_scripts_model_joins_the_swarm_it_fits() -> None:
    model = nn.Linear(3, 2)
    own = methods.describe_model(model)
    assert isinstance(own, methods.OwnModel)
    settings: dict[str, Setting] = dict(own.settings)
    spec = changed(model=own.model, settings=settings)
    built = methods.build_loop(spec, model)
    assert isinstance(built, tuple)
    made, outer = built
    assert isinstance(outer, Outer)
    assert made.digest(made.start(spec)[0]) == made.start_digest(spec)
    other = methods.build_loop(spec, nn.Linear(2, 3))
    assert isinstance(other, str)
    assert "names or shapes differ" in other
    assert isinstance(methods.build_loop(changed(model="gpt-0.2m"), model), str)
    too_large = msgspec.structs.replace(spec, payload_bytes_max=10)
    assert "payload_bytes_max" in str(methods.build_loop(too_large, model))


def test_a_spec_fixes_the_old_state_that_its_swarm_goes_on_from() -> None:
    old = methods.build(SPEC, MemberOptions())
    assert isinstance(old, Diloco)
    start, _ = old.start(SPEC)
    later = State(7, start.parameters * np.float32(2), start.parameters)
    spec = methods.with_settings(SPEC, **methods.describe_state(old, later))
    new = methods.build(spec, MemberOptions())
    assert isinstance(new, Diloco)
    assert new.start_digest(spec) == new.digest(new.restart(later))
    assert new.start_digest(spec) not in (new.digest(later), new.digest(new.start(spec)[0]))
    fetched = new.load(BytesReader(b"".join(old.save(old.restart(later)))))
    assert new.digest(fetched) == new.start_digest(spec)


def test_baselines_learn_and_more_data_per_step_learns_more() -> None:
    spec = methods.with_settings(SPEC, steps=8, batch_size=2, context=32, lr=0.005, validation_windows=32)
    lonely = list(alone(spec, MemberOptions(), rounds=3))
    together = list(synchronous(spec, MemberOptions(), members=4, rounds=3))
    assert len(lonely) == len(together) == 3
    assert math.log(256) > lonely[0] > lonely[-1] > together[-1]
    with pytest.raises(ValueError, match="not known here"):
        alone(changed(model="gpt-9000m"), MemberOptions(), rounds=1)


def zeroth(**settings: Setting) -> Spec:
    return changed(method="zeroth", settings=settings)


def test_a_spec_of_forward_passes_becomes_its_method() -> None:
    assert isinstance(methods.build(zeroth(), MemberOptions()), Zeroth)


def test_forward_passes_that_nobody_could_use_are_refused_in_a_line(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_bytes(b"to be or not to be " * 2000)
    assert "leave out --data" in reason(zeroth(), MemberOptions(data_path=own))
    assert isinstance(methods.build(zeroth(audit="private"), MemberOptions(data_path=own)), Zeroth)
    few = msgspec.structs.replace(zeroth(), samples_max=63)
    assert "are 64 samples" in reason(few)
    assert "payload_bytes_max" in reason(msgspec.structs.replace(zeroth(), payload_bytes_max=7))
    assert "does not take a model of one's own" in str(methods.build_loop(zeroth(), nn.Linear(2, 2)))

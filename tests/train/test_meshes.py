import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from tfm_jax import train
from tfm_jax.train.meshes import MESH_AXES


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a GPU cluster, as far as a mesh asks."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


def ids(mesh):
    return [device.id for device in mesh.devices.flat]


def test_mesh_has_all_axes_of_type_auto_over_the_first_devices():
    mesh = train.make_mesh(data=2, tensor=3)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 3, "sequence": 1, "expert": 1}
    assert tuple(mesh.shape) == MESH_AXES
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert ids(mesh) == [device.id for device in jax.devices()[:6]]
    assert train.make_mesh().size == 1
    assert ids(train.make_mesh(fsdp=2, devices=jax.devices()[5:])) == [5, 6]


def test_auto_is_what_the_other_axes_leave():
    assert train.make_mesh(data="auto").shape["data"] == 8
    mesh = train.make_mesh(data=2, fsdp="auto", sequence=2)
    assert (mesh.size, mesh.shape["fsdp"]) == (8, 2)
    assert train.make_mesh(fsdp="auto", devices=jax.devices()[:5]).shape["fsdp"] == 5


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 4}, {"data": 4, "tensor": 2}, {"fsdp": 8}])
def test_slices_lie_along_the_outer_axis(sizes):
    devices = [Device(i, slice_index=i % 2) for i in range(8)]
    mesh = train.make_mesh(**sizes, devices=devices)
    slices = [[device.slice_index for device in line] for line in mesh.devices.reshape(2, 4)]
    assert slices == [[0] * 4, [1] * 4]
    assert dict(mesh.shape) == {**dict.fromkeys(MESH_AXES, 1), **sizes}


def test_bad_meshes_raise_before_anything_compiles():
    simulated = "Or simulate more on the CPU: JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=12 python"
    with pytest.raises(
        ValueError, match=rf"make_mesh: got data=3, fsdp=4: 12 devices; wanted 1 to 8, the cpu .*{simulated}"
    ):
        train.make_mesh(data=3, fsdp=4)
    with pytest.raises(ValueError, match="make_mesh: got tensor=0; wanted an integer"):
        train.make_mesh(tensor=0)
    with pytest.raises(ValueError, match=r"make_mesh: got data=2.5; wanted an integer"):
        train.make_mesh(data=2.5)
    with pytest.raises(ValueError, match="got 'auto' for data and fsdp; wanted it once"):
        train.make_mesh(data="auto", fsdp="auto")
    for tensor in (3, 16):
        with pytest.raises(ValueError, match=rf"other axes have {tensor} devices; wanted a divisor of 8"):
            train.make_mesh(data="auto", tensor=tensor)
    with pytest.raises(ValueError, match=r"over 2 slices; wanted sizes that they divide. Make data a mult"):
        train.make_mesh(data=3, devices=[Device(i, slice_index=i // 2) for i in range(3)])
    devices = [Device(i, slice_index=0, process_index=i // 4) for i in range(8)]
    with pytest.raises(ValueError, match=r"got data=4: 4 of 8 devices, none of process 1; .*'auto'"):
        train.make_mesh(data=4, devices=devices)

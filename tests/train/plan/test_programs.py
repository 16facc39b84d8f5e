# ruff: noqa: E501  - lines of HLO
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.train.plan.accelerators import devices_or_skip, optimized_programs
from tfm_jax.train.plan import programs
from tfm_jax.train.plan.programs import collective_bytes, collectives, dots
from tfm_jax.train.plan.topologies import compile_for

LAYERS, WIDTH, VOCABULARY, BATCH, MICROBATCHES = 4, 256, 512, 64, 3


@pytest.fixture
def optimized():
    with optimized_programs():
        yield


def compile_step(devices, topology="cpu:8"):
    """An FSDP step: scanned layers with recomputation, in a loop over microbatches."""
    mesh = Mesh(np.array(devices[:8]).reshape(2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def layer(x, w):
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(("data", "fsdp"))))
        return jnp.tanh(x @ w.astype(jnp.bfloat16)), None

    def loss(weights, x):
        x, _ = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, weights["layers"])
        return jnp.sum((x @ weights["head"].astype(jnp.bfloat16)).astype(jnp.float32) ** 2)

    def step(weights, batches):
        def add(total, x):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(weights, x)), None

        gradients, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), batches)
        return jax.tree.map(jnp.subtract, weights, gradients)

    sharded = {"layers": NamedSharding(mesh, P(None, "fsdp")), "head": NamedSharding(mesh, P("fsdp"))}
    weights = {
        "layers": jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32),
        "head": jax.ShapeDtypeStruct((WIDTH, VOCABULARY), jnp.float32),
    }
    batches = jax.ShapeDtypeStruct((MICROBATCHES, BATCH, WIDTH), jnp.bfloat16)
    placed = NamedSharding(mesh, P(None, ("data", "fsdp")))
    jitted = jax.jit(step, in_shardings=(sharded, placed), out_shardings=sharded, donate_argnums=0)
    return compile_for(topology, jitted.lower(weights, batches)).as_text()


def test_the_collectives_of_a_step_on_cpus_are_counted_with_the_trips_of_both_loops(optimized):
    found = collectives(compile_step(jax.devices()))
    gathers = [x for x in found if x.kind == "all-gather" and x.shape == (WIDTH, WIDTH)]
    assert [x.count for x in gathers] == [
        LAYERS * MICROBATCHES
    ] * 2  # forward, and again in the backward pass
    assert {x.bytes for x in gathers} == {4 * WIDTH * WIDTH}  # the CPU computes bfloat16 in float32
    assert {x.groups for x in gathers} == {((0, 1, 2, 3), (4, 5, 6, 7))}
    assert all("test_programs.py:" in x.source for x in gathers)
    assert any("rematted_computation" in x.name for x in gathers)
    over_data = [x for x in found if x.groups == ((0, 4), (1, 5), (2, 6), (3, 7))]
    assert sorted((x.kind, x.bytes, x.count) for x in over_data) == [
        ("all-reduce", 4 * WIDTH * WIDTH // 4, LAYERS * MICROBATCHES),
        ("all-reduce", 4 * WIDTH * VOCABULARY // 4, MICROBATCHES),
    ]


@pytest.mark.parametrize("topology", ["v5e:2x4", "h200:8"])
def test_the_collectives_of_a_step_on_an_accelerator_are_the_formula(topology, optimized):
    text = compile_step(devices_or_skip(topology), topology)
    total = collective_bytes(collectives(text))
    layers, head = LAYERS * WIDTH * WIDTH * MICROBATCHES, WIDTH * VOCABULARY * MICROBATCHES
    assert total["all-gather"] == 2 * (2 * layers + head)  # bfloat16
    assert total["reduce-scatter"] == 2 * (layers + head)
    assert programs.unknown_loops(text) == 0
    assert (programs.cycles(text) > 0) == topology.startswith("v5e")
    products = [x for x in dots(text) if x.dtypes[:2] == ("bf16", "bf16")]
    tokens = BATCH // 8 * MICROBATCHES
    formula = 2 * tokens * WIDTH * (4 * LAYERS * WIDTH + 3 * VOCABULARY)
    assert sum(x.flops * x.count for x in products) == formula


HEAD = """HloModule m, is_scheduled=true

FileNames
1 "/a/model.py"
2 "/a/train.py"

FileLocations
1 {file_name_id=2 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
2 {file_name_id=1 function_name_id=1 line=31 end_line=31 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=0}
2 {file_location_id=2 parent_frame_id=2}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

"""
# A TPU writes no trip counts; here the bound and the step are constants of the outer program.
LOOP = (
    HEAD
    + """%step (a: s32[], b: s32[]) -> s32[] {
  %a = s32[]{:T(128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  ROOT %next = s32[]{:T(128)} add(%a, %b)
}

%body (p: (s32[], f32[8,4], s32[], s32[])) -> (s32[], f32[8,4], s32[], s32[]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}, s32[]{:T(128)}, /*index=3*/s32[]{:T(128)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %v = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %n = s32[] get-tuple-element(%p), index=2
  %k = s32[] get-tuple-element(%p), index=3
  %ar = f32[8,4]{1,0} all-reduce(%v), channel_id=1, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum, metadata={op_name="jit(f)/psum" stack_frame_id=2}
  %j = s32[] fusion(%i, %k), kind=kLoop, calls=%step
  ROOT %t = (s32[], f32[8,4], s32[], s32[]) tuple(%j, %ar, %n, %k)
}

%condition (q: (s32[], f32[8,4], s32[], s32[])) -> pred[] {
  %q = (s32[], f32[8,4], s32[], s32[]) parameter(0)
  %ii = s32[] get-tuple-element(%q), index=0
  %nn = s32[] get-tuple-element(%q), index=2
  ROOT %lt = pred[] compare(%ii, %nn), direction=LT
}

ENTRY %main (z: f32[8,4]) -> f32[8,4] {
  %z = f32[8,4]{1,0} parameter(0)
  %start = s32[] constant(3)
  %stop = s32[] constant(12)
  %two = s32[] constant(2)
  %c = s32[] copy(%start)
  %init = (s32[], f32[8,4], s32[], s32[]) tuple(%c, %z, %stop, %two)
  %w = (s32[], f32[8,4], s32[], s32[]) while(%init), condition=%condition, body=%body
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""
)


def test_trips_of_a_loop_follow_from_its_condition():
    [found] = collectives(LOOP)
    assert (found.kind, found.shape, found.bytes, found.count) == ("all-reduce", (8, 4), 128, 5)  # 3 5 7 9 11
    assert found.groups == ((0, 4), (1, 5), (2, 6), (3, 7)) and found.group_size == 2
    assert found.lines == ("/a/model.py:31", "/a/train.py:7") and found.source == "/a/model.py:31"
    assert collective_bytes([found]) == {"all-reduce": 640}
    assert programs.unknown_loops(LOOP) == 0


@pytest.mark.parametrize(
    "old, new, trips",
    [
        ("direction=LT", "direction=LE", 5),
        ("constant(12)", "constant(13)", 5),
        ("constant(12)", "constant(2)", 0),
    ],
)
def test_other_bounds(old, new, trips):
    assert [x.count for x in collectives(LOOP.replace(old, new))] == [trips]


@pytest.mark.parametrize("old", ["constant(12)", "constant(3)", "constant(2)"])
def test_a_loop_with_an_unknown_bound_counts_once_and_is_reported(old):
    text = LOOP.replace(old, "parameter(1)")
    assert programs.unknown_loops(text) == 1
    assert collectives(text)[0].count == 1


def entry(*lines):
    return HEAD + "\n".join(["ENTRY %main () -> f32[] {", *(f"  {line}" for line in lines), "}", ""])


def test_an_asynchronous_pair_is_one_collective():
    text = entry(
        "%a = f32[4,8]{1,0} parameter(0)",
        "%b = bf16[2]{0} parameter(1)",
        "%g = ((f32[4,8], bf16[2]), (f32[32,8], bf16[16])) all-gather-start(%a, %b), replica_groups={{0,1}}",
        "%h = (f32[32,8], bf16[16]) all-gather-done(%g)",
        "%s = ((f32[4,8]{1,0}), f32[2,8]{1,0}) reduce-scatter-start(%a), replica_groups={{0,1}}, to_apply=%sum",
        "%p = (f32[4,8], f32[4,8], u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}",
        "%q = f32[4,8] collective-permute-done(%p)",
        "%r = f32[4,8] all-reduce-start(%a), replica_groups={}, to_apply=%sum",
    )
    found = {(x.kind, x.dtype, x.shape, x.bytes, x.groups) for x in collectives(text)}
    assert found == {
        ("all-gather", "f32", (32, 8), 1024, ((0, 1),)),
        ("all-gather", "bf16", (16,), 32, ((0, 1),)),
        ("reduce-scatter", "f32", (4, 8), 128, ((0, 1),)),
        ("collective-permute", "f32", (4, 8), 128, ((0, 1), (1, 0))),
        ("all-reduce", "f32", (4, 8), 128, ()),
    }


def test_the_arrays_of_a_joined_collective_have_their_own_lines():
    """A GPU's compiler joins collectives: the metadata of the result are those of one of them."""
    text = entry(
        '%a = f32[4,8]{1,0} parameter(0), metadata={op_name="a" stack_frame_id=1}',
        '%b = f32[2,8]{1,0} dot(%a, %a), metadata={op_name="b" stack_frame_id=2}',
        "%g = ((f32[4,8], f32[2,8], f32[2,8]), (f32[8,8], f32[4,8], f32[6,8])) all-gather-start(%a, %b, %b), "
        'replica_groups={{0,1}}, metadata={op_name="joined" stack_frame_id=1}',
        '%h = (f32[8,8], f32[4,8], f32[6,8]) all-gather-done(%g), metadata={op_name="joined" stack_frame_id=1}',
        '%h0 = f32[8,8] get-tuple-element(%h), index=0, metadata={op_name="first" stack_frame_id=1}',
        "%h1 = f32[4,8] get-tuple-element(%h), index=1",
        '%u = f32[4,8] negate(%h1), metadata={op_name="second" stack_frame_id=2}',
        "%s = (f32[2,8], f32[1,8]) reduce-scatter(%a, %b), replica_groups={{0,1}}, to_apply=%sum",
        '%s0 = f32[2,8] get-tuple-element(%s), index=0, metadata={op_name="update" stack_frame_id=2}',
    )
    found = {(x.kind, x.shape): (x.name, x.source) for x in collectives(text)}
    assert found == {
        ("all-gather", (8, 8)): ("first", "/a/train.py:7"),
        ("all-gather", (4, 8)): ("second", "/a/model.py:31"),
        ("all-gather", (6, 8)): ("joined", "/a/train.py:7"),  # nothing reads it
        ("reduce-scatter", (4, 8)): ("a", "/a/train.py:7"),
        ("reduce-scatter", (2, 8)): ("b", "/a/model.py:31"),
    }


def test_a_collective_that_a_tpu_runs_beside_fusions_is_one():
    link = (
        "%x{i} = bf16[16,8] all-gather(%a), channel_id={channel}, replica_groups={{{{0,1}}}}, "
        'frontend_attributes={{chain_id="{chain}"}}'
    )
    links = [(0, 1, 7), (1, 1, 7), (2, 1, 7), (3, 1, 8), (4, 2, 9)]
    text = entry(
        "%a = bf16[8,8] parameter(0)", *(link.format(i=i, channel=n, chain=chain) for i, n, chain in links)
    )
    assert [(x.count, x.bytes) for x in collectives(text)] == [(3, 256)]


def test_a_collective_that_the_sparse_core_of_a_tpu_runs_is_counted():
    text = (
        HEAD
        + """%called (i: bf16[8,4], t: token[]) -> bf16[32,4] {
  %t = token[] parameter(1)
  %i = bf16[8,4]{1,0} parameter(0)
  ROOT %g = bf16[32,4]{1,0} all-gather(%i), replica_groups=[2,4]<=[8], dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (i2: bf16[8,4]) -> bf16[32,4] {
  %i2 = bf16[8,4]{1,0} parameter(0)
  %p = token[] custom-call(), custom_call_target="PrepareAsyncCallDone"
  %c = ((bf16[8,4], token[]), bf16[32,4]) call-start(%i2, %p), async_execution_thread="sparsecore", to_apply=%called, metadata={op_name="jit(f)/gather" stack_frame_id=2}
  ROOT %d = bf16[32,4]{1,0} call-done(%c)
}
"""
    )
    [found] = collectives(text)
    assert (found.kind, found.shape, found.bytes, found.count) == ("all-gather", (32, 4), 256, 1)
    assert found.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (found.source, found.name) == ("/a/model.py:31", "jit(f)/gather")


def test_groups_of_a_mesh():
    text = entry(
        "%a = f32[4]{0} parameter(0)",
        "%r = f32[4] all-reduce(%a), replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) "
        "{'axis_0'}, to_apply=%sum",
        "%s = f32[4] all-reduce(%a), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%sum",
    )
    assert {x.groups for x in collectives(text)} == {
        ((0, 1, 2, 3), (4, 5, 6, 7)),
        ((0, 4), (1, 5), (2, 6), (3, 7)),
    }


def test_an_all_reduce_with_its_slice_in_a_fusion_of_a_tpu_is_a_reduce_scatter():
    text = (
        HEAD
        + """%all-reduce-scatter.1 (i: bf16[16,8]) -> bf16[4,8] {
  %i = bf16[16,8]{1,0} parameter(0)
  %ar = bf16[16,8]{1,0} all-reduce(%i), replica_groups={{0,1,2,3}}, to_apply=%sum
  %z = s32[] constant(0)
  ROOT %d = bf16[4,8]{1,0} dynamic-slice(%ar, %z, %z), dynamic_slice_sizes={4,8}
}

ENTRY %main (i2: bf16[16,8]) -> bf16[4,8] {
  %i2 = bf16[16,8]{1,0} parameter(0)
  ROOT %f = bf16[4,8]{1,0} fusion(%i2), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(f)/dot"}
}
"""
    )
    [found] = collectives(text)
    assert (found.kind, found.shape, found.bytes, found.name) == (
        "reduce-scatter",
        (16, 8),
        256,
        "jit(f)/dot",
    )


def test_products_of_every_compiler():
    text = entry(
        "%a = bf16[5,16,8]{2,1,0} parameter(0)",
        "%b = bf16[5,8,32]{2,1,0} parameter(1)",
        "%c = f32[16,8]{1,0} parameter(2)",
        "%d = f32[5,16,32] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, "
        "rhs_contracting_dims={1}",
        "%e = f32[5,16,32] convolution(%a, %b), window={size=5 stride=4 pad=0_0 lhs_dilate=5}, "
        "dim_labels=0bf_0io->0bf",
        "%f = f32[16,16] convolution(%c, %c), dim_labels=bf_oi->bf, operand_precision={highest,highest}",
        '%g = (f32[16,16], s8[64]) custom-call(%c, %c), custom_call_target="__cublas$lt$matmul", backend_config='
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]},"precision_config":{"operand_precision":'
        '["HIGHEST","HIGHEST"]}}',
        '%h = f32[16] custom-call(%c), custom_call_target="__cudnn$fmhaSoftmax"',
    )
    batched, dense = 2 * 5 * 16 * 32 * 8, 2 * 16 * 16 * 8
    assert [(x.dtypes, x.flops, x.precision) for x in dots(text)] == [
        (("bf16", "bf16", "f32"), batched, "default"),
        (("bf16", "bf16", "f32"), batched, "default"),
        (("f32", "f32", "f32"), dense, "highest"),
        (("f32", "f32", "f32"), dense, "highest"),
    ]
    assert [x.target for x in programs.custom_calls(text)] == ["__cublas$lt$matmul", "__cudnn$fmhaSoftmax"]


def test_a_projection_to_heads_of_a_tpu_is_a_convolution_over_zeros():
    text = entry(
        "%x = bf16[2,256,192,1] parameter(0)",
        "%w = bf16[3,64,192,1] parameter(1)",
        "%y = bf16[2,256,3,64] convolution(%x, %w), window={size=1x3 pad=0_0x2_2 rhs_reversal=0x1}, "
        "dim_labels=0bf1_1oi0->0b1f",
    )
    assert [x.flops for x in dots(text)] == [2 * 2 * 256 * 192 * 3 * 64]


def test_temporaries_are_what_is_written_to_memory():
    found = programs.temporaries(LOOP)
    assert [(x.opcode, x.shape, x.count) for x in found] == [("all-reduce", (8, 4), 5)]


def test_a_text_that_is_no_program():
    with pytest.raises(ValueError, match="got text without an ENTRY"):
        collectives("module @jit_f {}")


def test_metadata_of_a_kernel_may_have_line_breaks():
    text = """HloModule m

ENTRY %main (x: f32[4]) -> f32[8] {
  %x = f32[4]{0} parameter(0)
  %kernel = f32[4]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/pallas_call"}
  ROOT %all-gather = f32[8]{0} all-gather(%kernel), replica_groups={{0,1}}, dimensions={0}
}
"""
    assert [x.bytes for x in collectives(text)] == [32]
    assert [(x.target, x.name) for x in programs.custom_calls(text)] == [
        ("tpu_custom_call", "jit(f)/pallas_call")
    ]

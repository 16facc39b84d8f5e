import pytest

from tests.train.plan.test_programs import entry
from tfm_jax.train.plan import programs
from tfm_jax.train.plan.chips import CHIPS
from tfm_jax.train.plan.estimates import exchange_seconds, kernel_flops, roofline_seconds, seconds_of


def test_exchanges_are_the_bytes_that_a_ring_receives_over_the_published_bandwidth():
    text = entry(
        "%a = f32[1000,1000]{1,0} parameter(0)",
        "%g = f32[4000,1000] all-gather(%a), replica_groups={{0,1,2,3}}, dimensions={0}",
        "%r = f32[1000,1000] all-reduce(%a), replica_groups={{0,1},{2,3}}, to_apply=%sum",
        "%p = f32[1000,1000] collective-permute(%a), source_target_pairs={{0,1},{1,0}}",
    )
    received = 4e6 * (4 * 3 / 4 + 2 * 1 / 2 + 1)
    assert exchange_seconds(text, CHIPS["v5e"], 4) == pytest.approx(received / 100e9)
    assert exchange_seconds(text, CHIPS["cpu"], 4) is None


def test_a_roofline_is_the_larger_of_products_and_bytes():
    h200 = CHIPS["h200"]
    text = entry(
        "%a = bf16[4096,4096]{1,0} parameter(0)",
        "%d = bf16[4096,4096] dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        "%n = bf16[4096,4096] negate(%a)",
    )
    product, negate = 2 * 4096**3 / h200.flops, 2 * 2 * 4096**2 / h200.bandwidth
    assert roofline_seconds(text, h200) == pytest.approx(product + negate)
    in_float32 = text.replace("bf16", "f32")
    assert roofline_seconds(in_float32, h200) == pytest.approx(2 * product + 2 * negate)


def test_a_barrier_of_the_compiler_takes_no_time():
    text = entry("%a = f32[1000]{0} parameter(0)", "%b = f32[1000] opt-barrier(%a)")
    assert roofline_seconds(text, CHIPS["h200"]) == 0


def test_all_products_of_a_fusion_count_and_those_of_a_shared_computation_once_a_call():
    h200 = CHIPS["h200"]
    dot = "dot(%{x}, %{x}), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"
    text = entry(
        "%a = bf16[4096,4096]{1,0} parameter(0)",
        "%f = (bf16[4096,4096], bf16[4096,4096]) fusion(%a), kind=kOutput, calls=%two",
        "%g = bf16[4096,4096] call(%a), to_apply=%one",
        "%h = bf16[4096,4096] call(%a), to_apply=%one",
    )
    functions = "\n".join(
        [
            "%two (x: bf16[4096,4096]) -> (bf16[4096,4096], bf16[4096,4096]) {",
            "  %x2 = bf16[4096,4096]{1,0} parameter(0)",
            f"  %d1 = bf16[4096,4096] {dot.format(x='x2')}",
            f"  %d2 = bf16[4096,4096] {dot.format(x='x2')}",
            "  ROOT %t2 = (bf16[4096,4096], bf16[4096,4096]) tuple(%d1, %d2)",
            "}",
            "",
            "%one (x: bf16[4096,4096]) -> bf16[4096,4096] {",
            "  %x1 = bf16[4096,4096]{1,0} parameter(0)",
            f"  ROOT %d3 = bf16[4096,4096] {dot.format(x='x1')}",
            "}",
            "",
            "ENTRY ",
        ]
    )
    product = 2 * 4096**3 / h200.flops
    assert roofline_seconds(text.replace("ENTRY ", functions), h200) == pytest.approx(4 * product)


def test_attention_kernels_count_all_pairs():
    fwd, pairs = "%k = bf16[2,4,16,8] custom-call(%m, %q, %kv, %kv)", 2 * 4 * 16 * 8 * 32
    lines = [
        "%m = s8[1,4,4] parameter(0)",
        "%q = bf16[2,4,16,8] parameter(1)",
        "%kv = bf16[2,2,32,8] parameter(2)",
    ]
    splash = entry(*lines, f'{fwd}, custom_call_target="tpu_custom_call"')
    assert kernel_flops(splash) == 2 * 2 * pairs
    assert kernel_flops(splash.replace("%k =", "%splash_mha_dkv.1 =")) == 4 * 2 * pairs
    assert kernel_flops(splash.replace("%k =", "%splash_mha_dq.1 =")) == 3 * 2 * pairs
    cudnn = entry(
        "%q = bf16[2,16,4,8] parameter(1)",
        "%kv = bf16[2,32,4,8] parameter(2)",
        '%k = bf16[2,16,4,8] custom-call(%q, %kv, %kv), custom_call_target="__cudnn$fmhaSoftmax"',
    )
    assert kernel_flops(cudnn) == 2 * 2 * pairs
    assert kernel_flops(cudnn.replace("fmhaSoftmax", "fmhaSoftmaxBackward")) == 5 * 2 * pairs
    assert kernel_flops(entry('%x = f32[2] custom-call(), custom_call_target="AllocateBuffer"')) == 0


def test_a_tpu_takes_the_cycles_of_its_compiler():
    text = entry('%f = f32[8] fusion(), kind=kLoop, calls=%sum, backend_config={"estimated_cycles":"3000"}')
    compute, exchange = seconds_of(text, CHIPS["v5e"], {"data": 8})
    assert (compute, exchange) == (pytest.approx(3000 / 1.5e9), 0)
    assert seconds_of(text, CHIPS["cpu"], {"data": 8}) == (None, None)


def test_operations_without_an_estimate_of_the_compiler_are_left_out_and_counted():
    fusion = '%{} = f32[8] fusion(), kind=kLoop, calls=%sum, backend_config={{"estimated_cycles":"{}"}}'
    text = entry(fusion.format("f", 3000), fusion.format("g", 2**63 - 1))
    assert (programs.cycles(text), programs.unknown_cycles(text)) == (3000, 1)

// One property of cooperative matrices at a time, by one subgroup, with whole numbers.
// Bindings: x f16, A [F, F] and B [F, F] row-major; y f32 [F, F].
// TRANSPOSED: B is read column-major, so that y = A B^T. LOOP: the sum is a variable
// inside a loop, to be zero on every turn. FAR: operands lie 576 vec4s into their
// array. BACK: it goes through shared memory and
// back, doubled by the lanes. Otherwise y = A B.

enable wgpu_cooperative_matrix;

@group(0) @binding(0) var<storage, read> x: array<vec4<f16>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

const V = ${F}u / 4u;
const P = ${P}u;
const PS = V + 1u;
#ifdef FAR
const O = 576u;
#else
const O = 0u;
#endif
var<workgroup> sx: array<vec4<f16>, ${SX} + O>;
var<workgroup> ss: array<vec4<f32>, ${SS}>;

@compute @workgroup_size(${LANES})
fn main(@builtin(local_invocation_index) t: u32) {
    for (var i = t; i < 2u * ${F}u * V; i += ${LANES}u) {
        sx[O + i / V * P + i % V] = x[i];
    }
    workgroupBarrier();
    let a = coopLoadT<coop_mat${F}x${F}<f16, A>>(&sx[O], P);
#ifdef TRANSPOSED
    let b = coopLoad<coop_mat${F}x${F}<f16, B>>(&sx[O + ${F}u * P], P);
#else
    let b = coopLoadT<coop_mat${F}x${F}<f16, B>>(&sx[O + ${F}u * P], P);
#endif
#ifdef LOOP
    for (var turn = 0u; turn < 3u; turn++) {
        var s = coop_mat${F}x${F}<f32, C>();
        s = coopMultiplyAdd(a, b, s);
        coopStoreT(s, &y[0], ${F}u);
    }
#else
    var s = coop_mat${F}x${F}<f32, C>();
    s = coopMultiplyAdd(a, b, s);
#ifdef BACK
    coopStoreT(s, &ss[0], PS);
    workgroupBarrier();
    for (var i = t; i < ${F}u * V; i += ${LANES}u) {
        ss[i / V * PS + i % V] *= 2.0;
    }
    workgroupBarrier();
    s = coopLoadT<coop_mat${F}x${F}<f32, C>>(&ss[0], PS);
#endif
    coopStoreT(s, &y[0], ${F}u);
#endif
}

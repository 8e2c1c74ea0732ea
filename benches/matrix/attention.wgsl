// Self-attention of heads of 64 with cooperative matrices: softmax(q k^T / 8) v,
// one pass over the keys, never a matrix of scores in memory.
//
// A workgroup takes SG x QR queries of one head, a subgroup QR of them, KB keys at
// a time. Matrices have no elements in WGSL, so scores go through shared memory to
// the lanes (LR of them a row), and probabilities come back as f16. A row is
// anchored at an old maximum until a new one is more than 2^8 above it (exact after
// the division at the end): only then the sums take the same way to be rescaled.
//
// Bindings, in units of 8 halves:
//   x    f16 [batch, tokens, 3 * heads * 8]: q, k and v of all heads side by side
//   out  f16 [batch, tokens, heads * 8]
// Measured on an H200: docs/gpu.md. Rejected there: sums that start from zeros in
// memory (1 to 2 % slower than the constant), and an array for the queries alone (58
// for 95 TFLOP/s: they are then read again for each block).
// Grid: query blocks, batch * heads. Constraints: LANES / QR = LR is 1 or 2.

enable wgpu_cooperative_matrix;

struct H8 { a: vec4<f16>, b: vec4<f16> }

struct Params {
    tokens: u32,
    heads: u32,
}

@group(0) @binding(0) var<storage, read> x: array<H8>;
@group(0) @binding(1) var<storage, read_write> out: array<H8>;
@group(0) @binding(2) var<uniform> p: Params;

const T = ${T}u;
const P = 18u;                            // pitch of a row of q, k, v: 72 halves
const PS = ${KB}u / 4u + 1u;              // of scores
const PP = ${KB}u / 4u + 2u;              // of probabilities
const V0 = ${KB}u * P;
const SCALE = 0.18033688011112042;        // log2(e) / sqrt(64)
var<workgroup> kv: array<vec4<f16>, ${KV}>;    // [KB] keys, [KB] values; first the queries
var<workgroup> ss: array<vec4<f32>, ${SS}>;    // [SG][QR][KB + 4]
var<workgroup> sp: array<vec4<f16>, ${SP}>;    // [SG][QR][KB + 8]
// A vec4, since NVIDIA's driver (580.159) lays workgroup variables side by side: four
// bytes here put the next array 8 bytes off the 16 that matrix loads need, and they
// read 4 values too early (seen on an H200).
var<workgroup> grown: vec4<u32>;

@compute @workgroup_size(${T})
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let batch = g.y / p.heads;
    let head = g.y % p.heads;
    let pitch = 3u * p.heads * 8u;
    let base = batch * p.tokens * pitch + head * 8u;
    let q0 = g.x * ${QB}u;
    // Queries on their way to matrices.
#repeat i ${QU}
    {
        let unit = t + ${i}u * T;
        let source = min(q0 + unit / 8u, p.tokens - 1u);
        let u = x[base + source * pitch + unit % 8u];
        let at = unit / 8u * P + unit % 8u * 2u;
        kv[at] = u.a; kv[at + 1u] = u.b;
    }
#end
    workgroupBarrier();
#repeat i ${QF}
#repeat c ${DF}
    let at${i}_${c} = (sg * ${QR}u + ${i}u * ${F}u) * P + ${c}u * ${F}u / 4u;
    let q${i}_${c} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&kv[at${i}_${c}], P);
#end
#end
    workgroupBarrier();
#repeat i ${QF}
#repeat c ${OC}
#repeat d ${OD}
    var o${i}_${c}_${d} = coop_mat${F}x${F}<f32, C>();
#end
#end
#end
    let row = lane / ${LR}u;
    let part = lane % ${LR}u;
    let s_base = sg * ${QR}u * PS;
    let p_base = sg * ${QR}u * PP;
    let s_at = s_base + row * PS + part * ${CV}u;
    let p_at = p_base + row * PP + part * ${CV}u;
    var anchor = -1e30;
    var total = 0.0;
#repeat i ${KU}
    let kr${i} = (t + ${i}u * T) / 8u;
    let kx${i} = base + (t + ${i}u * T) % 8u + p.heads * 8u;
    let kd${i} = kr${i} * P + (t + ${i}u * T) % 8u * 2u;
    var k${i} = x[kx${i} + min(kr${i}, p.tokens - 1u) * pitch];
    var v${i} = x[kx${i} + min(kr${i}, p.tokens - 1u) * pitch + p.heads * 8u];
#end
    for (var first = 0u; first < p.tokens; first += ${KB}u) {
#repeat i ${KU}
        kv[kd${i}] = k${i}.a; kv[kd${i} + 1u] = k${i}.b;
        kv[V0 + kd${i}] = v${i}.a; kv[V0 + kd${i} + 1u] = v${i}.b;
#end
        if t == 0u {
            grown = vec4(0u);
        }
        workgroupBarrier();
#repeat i ${KU}
        {
            let source = kx${i} + min(first + ${KB}u + kr${i}, p.tokens - 1u) * pitch;
            k${i} = x[source];
            v${i} = x[source + p.heads * 8u];
        }
#end
#repeat j ${KF}
        {
#repeat i ${QF}
            var s${i} = coop_mat${F}x${F}<f32, C>();
#end
#repeat c ${DF}
            let ka${c} = ${j}u * ${F}u * P + ${c}u * ${F}u / 4u;
            let kf${c} = coopLoad<coop_mat${F}x${F}<f16, B>>(&kv[ka${c}], P);
#repeat i ${QF}
            s${i} = coopMultiplyAdd(q${i}_${c}, kf${c}, s${i});
#end
#end
#repeat i ${QF}
            let to${i} = s_base + ${i}u * ${F}u * PS + ${j}u * ${F}u / 4u;
            coopStoreT(s${i}, &ss[to${i}], PS);
#end
        }
#end
        workgroupBarrier();
        var top = -1e30;
#repeat n ${CV}
        var r${n} = ss[s_at + ${n}u] * SCALE;
#ifdef MASK
        {
            let key = first + (part * ${CV}u + ${n}u) * 4u;
            r${n} = select(vec4(-1e30), r${n}, vec4(key, key + 1u, key + 2u, key + 3u) < vec4(p.tokens));
        }
#endif
        top = max(top, max(max(r${n}.x, r${n}.y), max(r${n}.z, r${n}.w)));
#end
#ifdef PAIR
        top = max(top, subgroupShuffleXor(top, 1u));
#endif
        let grows = top > anchor + ${SLACK};
        if grows {
            grown.x = 1u;
        }
        if workgroupUniformLoad(&grown).x != 0u {
            let now = select(anchor, top, grows);
            let factor = exp2(clamp(anchor - now, -120.0, 0.0));
            anchor = now;
            total *= factor;
            // The sums in turns of KB columns.
#repeat c ${OC}
#repeat i ${QF}
#repeat d ${OD}
            let back${i}_${c}_${d} = s_base + ${i}u * ${F}u * PS + ${d}u * ${F}u / 4u;
            coopStoreT(o${i}_${c}_${d}, &ss[back${i}_${c}_${d}], PS);
#end
#end
            workgroupBarrier();
#repeat n ${CV}
            ss[s_at + ${n}u] *= factor;
#end
            workgroupBarrier();
#repeat i ${QF}
#repeat d ${OD}
            o${i}_${c}_${d} = coopLoadT<coop_mat${F}x${F}<f32, C>>(&ss[back${i}_${c}_${d}], PS);
#end
#end
            workgroupBarrier();
#end
        }
#repeat n ${CV}
        {
            let e = exp2(clamp(r${n} - anchor, vec4(-120.0), vec4(${SLACK})));
            total += e.x + e.y + e.z + e.w;
            sp[p_at + ${n}u] = vec4<f16>(e);
        }
#end
        workgroupBarrier();
#repeat j ${KF}
        {
#repeat i ${QF}
            let pa${i} = p_base + ${i}u * ${F}u * PP + ${j}u * ${F}u / 4u;
            let pf${i} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&sp[pa${i}], PP);
#end
#repeat c ${OC}
#repeat d ${OD}
            let va${c}_${d} = V0 + ${j}u * ${F}u * P + (${c}u * ${OD}u + ${d}u) * ${F}u / 4u;
            let vf${c}_${d} = coopLoadT<coop_mat${F}x${F}<f16, B>>(&kv[va${c}_${d}], P);
#repeat i ${QF}
            o${i}_${c}_${d} = coopMultiplyAdd(pf${i}, vf${c}_${d}, o${i}_${c}_${d});
#end
#end
#end
        }
#end
        workgroupBarrier();
    }
#ifdef PAIR
    total += subgroupShuffleXor(total, 1u);
#endif
    let share = 1.0 / total;
    let query = q0 + sg * ${QR}u + row;
    let at = (batch * p.tokens + query) * p.heads * 8u + head * 8u + part * ${CV}u / 2u;
#repeat c ${OC}
#repeat i ${QF}
#repeat d ${OD}
    let end${i}_${c}_${d} = s_base + ${i}u * ${F}u * PS + ${d}u * ${F}u / 4u;
    coopStoreT(o${i}_${c}_${d}, &ss[end${i}_${c}_${d}], PS);
#end
#end
    workgroupBarrier();
    if query < p.tokens {
#repeat n ${CH}
        out[at + ${c}u * ${KB}u / 8u + ${n}u] = H8(vec4<f16>(ss[s_at + 2u * ${n}u] * share), vec4<f16>(ss[s_at + 2u * ${n}u + 1u] * share));
#end
    }
    workgroupBarrier();
#end
}

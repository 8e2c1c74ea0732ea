// Attention with heads 64 wide by cooperative matrices: out = softmax(scale Q K^T) V
// in one pass over the keys, f16 operands, f32 scores and sums. See attention.wgsl for
// bindings and shapes, attention_params.wgsl for the parameters; `causal` is not
// served.
//
// A workgroup makes SG x QR queries of one head, a subgroup QR of them, KB keys at a
// time, in matrices of F x F. Matrices have no elements in WGSL, so scores go through
// shared memory to the lanes (LR of them a row), and their weights come back as f16. A
// row is anchored at an old maximum until a new one is more than 2^SLACK above it
// (exact after the division at the end): only then its sums take the same way to be
// rescaled. The next block of keys and values is read while this one is multiplied.
//
// SINGLE serves no more than KB keys, the 77 of a prompt: one block, the softmax as it
// stands, no second pass. A lane keeps its scores in registers, which CK keys at a time
// come to through shared memory; the values take the queries' place, the weights the
// keys'.
//
// Constraints: F16; offsets and pitches are even vec4s; a subgroup has LANES =
// LR x QR invocations. F is 16 or 8; FLAT puts scalars into shared memory, as Metal
// needs. MASK where the keys are no multiple of KB.
// Every variable in shared memory is a multiple of 16 bytes: NVIDIA's driver 580.159
// lays them side by side, and matrix loads need that alignment.
//
// In a bench of self-attention on an NVIDIA H200 (docs/gpu.md), 4 x 16 queries and 32
// keys: 94.8 TFLOP/s over 4096 tokens, 82.4 over 1024. Rejected there: sums that start
// from zeros in memory (1 to 2 % slower than the constant; FLAT needs them, as Metal
// may not clear a matrix), and an array for the queries alone (58 TFLOP/s: they are
// then read again for each block). In the UNet there (2026-11-26, `calotype bench`)
// 85.8 TFLOP/s, 24.6 over the 77 tokens of text, before there was SINGLE; since the next
// block's loads and stores are in one block of code (2026-11-27) 98.8 and 30.8.
//
// By Mesa 26.1.6's compilers, 4 x 16 queries and 32 keys, 2026-11-26 (nothing was run
// on these): RDNA3 navi31, 64 lanes: 168 registers, 16 wmma a block, 8 waves a SIMD, V
// read by halves (128 u16); RDNA4 gfx1201: 96 registers, 16 wmma, 8 waves; GA102 (NVK),
// 32 lanes: 128 registers, 32 hmma, 16 warps. SINGLE, 4 x 16 queries, 80 keys, MASK:
//   scores in turns of   navi31              gfx1201             ga102
//   16 (31.5, 27.5 KB)   156, 40 wmma, 8     156, 40 wmma, 8     88, 80 hmma, 20 warps
//   80 (43.5 KB)         180, 40 wmma, 4     156, 40 wmma, 4     80, 80 hmma, 24
// No spill.

#import attention_params
#import bounded
#import halves

@group(0) @binding(0) var<storage, read> q: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<Halves>;
@group(0) @binding(4) var<uniform> p: Params;

const T: u32 = ${T}u;             // invocations
const LOG2_E: f32 = 1.4426950408889634;
// Powers of two that a row's scores may lie above its anchor: weights up to 256 are
// fine in f16.
const SLACK: f32 = 8.0;
// A row's first anchor, and the scores of keys that there are not: so far below it
// that they weigh nothing either way.
const LOWEST: f32 = -1e30;
const MASKED: f32 = -3e38;
// The largest f16: weights are rounded, so that a mean may exceed its values a little.
const MOST: f32 = 65504.0;

#ifdef FLAT
const S: u32 = 1u;                // values of an element in shared memory
var<workgroup> kv: array<f16, ${KV}>;
var<workgroup> scores: array<f32, ${SCORES}>;
#ifndef SINGLE
var<workgroup> weights: array<f16, ${WEIGHTS}>;
#endif

fn put_kv(at: u32, unit: vec4<u32>) {
    let x = halves(unit);
#repeat j 4
    kv[at + ${j}u] = x.lo[${j}];
    kv[at + 4u + ${j}u] = x.hi[${j}];
#end
}
fn score_at(at: u32) -> vec4<f32> {
    return vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}
fn put_score(at: u32, x: vec4<f32>) {
#repeat j 4
    scores[at + ${j}u] = x[${j}];
#end
}
fn put_weight(at: u32, x: vec4<f16>) {
#repeat j 4
    ${W}[at + ${j}u] = x[${j}];
#end
}
#else
const S: u32 = 4u;
var<workgroup> kv: array<vec4<f16>, ${KV}>;           // [KB] keys, [KB] values; first the queries
var<workgroup> scores: array<vec4<f32>, ${SCORES}>;   // [SG][QR][ROOM + 4]
#ifndef SINGLE
var<workgroup> weights: array<vec4<f16>, ${WEIGHTS}>; // [SG][QR][KB + 8]
#endif

fn put_kv(at: u32, unit: vec4<u32>) {
    let x = halves(unit);
    kv[at] = x.lo;
    kv[at + 1u] = x.hi;
}
fn score_at(at: u32) -> vec4<f32> {
    return scores[at];
}
fn put_score(at: u32, x: vec4<f32>) {
    scores[at] = x;
}
fn put_weight(at: u32, x: vec4<f16>) {
    ${W}[at] = x;
}
#endif
#ifndef SINGLE
var<workgroup> grown: vec4<u32>;  // x: whether some row has to be rescaled
#endif

const P: u32 = 72u / S;           // from row to row of kv
const PS: u32 = ${ROOM}u / S + 4u / S; // of scores
const PW: u32 = ${KB}u / S + 8u / S;   // of weights
const VALUES: u32 = ${KB}u * P;
#ifdef SINGLE
const QUERIES: u32 = VALUES;      // where they lie until they are in matrices
#else
const QUERIES: u32 = 0u;
#endif

@compute @workgroup_size(${T})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let q0 = group.x * ${QB}u;
    let head = group.y * 8u;
    // Queries on their way to matrices.
    let q_base = (p.q_offset + group.z * p.q_batch) / 2u + head;
#repeat i ${QU}
    {
        let unit = thread + ${i}u * T;
        let row = min(q0 + unit / 8u, p.queries - 1u);
        put_kv(QUERIES + unit / 8u * P + unit % 8u * (8u / S), q[q_base + row * (p.q_pitch / 2u) + unit % 8u]);
    }
#end
    // What this invocation brings of a block: KU units of keys, and of values.
    let k_pitch = p.k_pitch / 2u;
    let v_pitch = p.v_pitch / 2u;
    let last = p.keys - 1u;
    let column = thread % 8u + head;
    let k_base = (p.k_offset + group.z * p.k_batch) / 2u + column;
    let v_base = (p.v_offset + group.z * p.v_batch) / 2u + column;
#repeat i ${KU}
#ifdef SINGLE
    let row${i} = min((thread + ${i}u * T) / 8u, ${KB}u - 1u);
#else
    let row${i} = (thread + ${i}u * T) / 8u;
#endif
    let to${i} = row${i} * P + thread % 8u * (8u / S);
#end
#ifdef SINGLE
#repeat i ${KU}
    put_kv(to${i}, k[k_base + min(row${i}, last) * k_pitch]);
    let v${i} = v[v_base + min(row${i}, last) * v_pitch];
#end
#endif
    let row = lane / ${LR}u;
    let part = lane % ${LR}u;
    let s_base = subgroup * ${QR}u * PS;
    let w_base = subgroup * ${QR}u * PW;
    let s_at = s_base + row * PS + part * (${CV}u * 4u / S);
    let w_at = w_base + row * PW + part * (${CV}u * 4u / S);
#ifdef FLAT
#repeat n ${CV}
    put_score(s_at + ${n}u * (4u / S), vec4(0.0));
#end
#endif
    workgroupBarrier();
#ifdef FLAT
    let zero = coopLoadT<coop_mat${F}x${F}<f32, C>>(&scores[s_base], PS);
#else
    let zero = coop_mat${F}x${F}<f32, C>();
#endif
#repeat i ${QF}
#repeat c ${DF}
    let q_from${i}_${c} = QUERIES + (subgroup * ${QR}u + ${i}u * ${F}u) * P + ${c}u * ${F}u / S;
    let q${i}_${c} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&kv[q_from${i}_${c}], P);
#end
#end
    workgroupBarrier();
#repeat i ${QF}
#repeat c ${OC}
#repeat d ${OD}
    var o${i}_${c}_${d} = zero;
#end
#end
#end
    let scale = p.scale * LOG2_E;
    var total = 0.0;
#ifdef SINGLE
    // The queries are in matrices, and the values take their place.
#repeat i ${KU}
    put_kv(VALUES + to${i}, v${i});
#end
    var top = MASKED;
#repeat r ${TURNS}
    if ${r}u > 0u {
        workgroupBarrier();
    }
#repeat j ${CF}
    {
#repeat i ${QF}
        var s${i} = zero;
#end
#repeat c ${DF}
        let k_from${c} = (${r}u * ${CF}u + ${j}u) * ${F}u * P + ${c}u * ${F}u / S;
        let keys${c} = coopLoad<coop_mat${F}x${F}<f16, B>>(&kv[k_from${c}], P);
#repeat i ${QF}
        s${i} = coopMultiplyAdd(q${i}_${c}, keys${c}, s${i});
#end
#end
#repeat i ${QF}
        let s_to${i} = s_base + ${i}u * ${F}u * PS + ${j}u * ${F}u / S;
        coopStoreT(s${i}, &scores[s_to${i}], PS);
#end
    }
#end
    workgroupBarrier();
#repeat n ${CV}
    var x${r}_${n} = score_at(s_at + ${n}u * (4u / S)) * scale;
#ifdef MASK
    {
        let key = vec4(${r}u * ${CK}u + (part * ${CV}u + ${n}u) * 4u) + vec4(0u, 1u, 2u, 3u);
        x${r}_${n} = select(vec4(MASKED), x${r}_${n}, key < vec4(p.keys));
    }
#endif
    top = max(top, max(max(x${r}_${n}.x, x${r}_${n}.y), max(x${r}_${n}.z, x${r}_${n}.w)));
#end
#end
#repeat s ${STEPS}
    top = max(top, subgroupShuffleXor(top, 1u << ${s}u));
#end
    // All have multiplied the keys, and the weights take their place.
#repeat r ${TURNS}
#repeat n ${CV}
    {
        // Not a number where the score is none.
        let d = x${r}_${n} - top;
        let e = select(exp2(d), vec4(0.0), d < vec4(-120.0));
        total += e.x + e.y + e.z + e.w;
        put_weight(w_at + ${r}u * ${CK}u / S + ${n}u * (4u / S), vec4<f16>(e));
    }
#end
#end
    workgroupBarrier();
#repeat j ${KF}
    {
#repeat i ${QF}
        let w_from${i} = w_base + ${i}u * ${F}u * PW + ${j}u * ${F}u / S;
        let w${i} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&${W}[w_from${i}], PW);
#end
#repeat c ${OC}
#repeat d ${OD}
        let v_from${c}_${d} = VALUES + ${j}u * ${F}u * P + (${c}u * ${OD}u + ${d}u) * ${F}u / S;
        let values${c}_${d} = coopLoadT<coop_mat${F}x${F}<f16, B>>(&kv[v_from${c}_${d}], P);
#repeat i ${QF}
        o${i}_${c}_${d} = coopMultiplyAdd(w${i}, values${c}_${d}, o${i}_${c}_${d});
#end
#end
#end
    }
#end
#else
    var anchor = LOWEST;
#repeat i ${KU}
    var k${i} = k[k_base + min(row${i}, last) * k_pitch];
    var v${i} = v[v_base + min(row${i}, last) * v_pitch];
#end
#repeat i ${KU}
    put_kv(to${i}, k${i});
    put_kv(VALUES + to${i}, v${i});
#end
    if thread == 0u {
        grown = vec4(0u);
    }
    workgroupBarrier();
    for (var first = 0u; first < p.keys; first += ${KB}u) {
#repeat j ${KF}
        {
#repeat i ${QF}
            var s${i} = zero;
#end
#repeat c ${DF}
            let k_from${c} = ${j}u * ${F}u * P + ${c}u * ${F}u / S;
            let keys${c} = coopLoad<coop_mat${F}x${F}<f16, B>>(&kv[k_from${c}], P);
#repeat i ${QF}
            s${i} = coopMultiplyAdd(q${i}_${c}, keys${c}, s${i});
#end
#end
#repeat i ${QF}
            let s_to${i} = s_base + ${i}u * ${F}u * PS + ${j}u * ${F}u / S;
            coopStoreT(s${i}, &scores[s_to${i}], PS);
#end
        }
#end
        workgroupBarrier();
        var top = MASKED;
#repeat n ${CV}
        var x${n} = score_at(s_at + ${n}u * (4u / S)) * scale;
#ifdef MASK
        {
            let key = vec4(first + (part * ${CV}u + ${n}u) * 4u) + vec4(0u, 1u, 2u, 3u);
            x${n} = select(vec4(MASKED), x${n}, key < vec4(p.keys));
        }
#endif
        top = max(top, max(max(x${n}.x, x${n}.y), max(x${n}.z, x${n}.w)));
#end
#repeat s ${STEPS}
        top = max(top, subgroupShuffleXor(top, 1u << ${s}u));
#end
        let grows = top > anchor + SLACK;
        if grows {
            grown.x = 1u;
        }
        if workgroupUniformLoad(&grown).x != 0u {
            let now = select(anchor, top, grows);
            let factor = exp2(max(anchor - now, -120.0));
            anchor = now;
            total *= factor;
            // The sums in turns of KB columns.
#repeat c ${OC}
#repeat i ${QF}
#repeat d ${OD}
            let o_at${i}_${c}_${d} = s_base + ${i}u * ${F}u * PS + ${d}u * ${F}u / S;
            coopStoreT(o${i}_${c}_${d}, &scores[o_at${i}_${c}_${d}], PS);
#end
#end
            workgroupBarrier();
#repeat n ${CV}
            put_score(s_at + ${n}u * (4u / S), score_at(s_at + ${n}u * (4u / S)) * factor);
#end
            workgroupBarrier();
#repeat i ${QF}
#repeat d ${OD}
            o${i}_${c}_${d} = coopLoadT<coop_mat${F}x${F}<f32, C>>(&scores[o_at${i}_${c}_${d}], PS);
#end
#end
            workgroupBarrier();
#end
        }
        // Where no branch lies between the loads and their use: NVIDIA's driver would
        // move them behind it.
#repeat i ${KU}
        {
            let next = min(first + ${KB}u + row${i}, last);
            k${i} = k[k_base + next * k_pitch];
            v${i} = v[v_base + next * v_pitch];
        }
#end
#repeat n ${CV}
        {
            // Not a number where the score is none.
            let d = x${n} - anchor;
            let e = select(exp2(d), vec4(0.0), d < vec4(-120.0));
            total += e.x + e.y + e.z + e.w;
            put_weight(w_at + ${n}u * (4u / S), vec4<f16>(e));
        }
#end
        workgroupBarrier();
#repeat j ${KF}
        {
#repeat i ${QF}
            let w_from${i} = w_base + ${i}u * ${F}u * PW + ${j}u * ${F}u / S;
            let w${i} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&${W}[w_from${i}], PW);
#end
#repeat c ${OC}
#repeat d ${OD}
            let v_from${c}_${d} = VALUES + ${j}u * ${F}u * P + (${c}u * ${OD}u + ${d}u) * ${F}u / S;
            let values${c}_${d} = coopLoadT<coop_mat${F}x${F}<f16, B>>(&kv[v_from${c}_${d}], P);
#repeat i ${QF}
            o${i}_${c}_${d} = coopMultiplyAdd(w${i}, values${c}_${d}, o${i}_${c}_${d});
#end
#end
#end
        }
#end
        workgroupBarrier();
#repeat i ${KU}
        put_kv(to${i}, k${i});
        put_kv(VALUES + to${i}, v${i});
#end
        if thread == 0u {
            grown = vec4(0u);
        }
        workgroupBarrier();
    }
#endif
#repeat s ${STEPS}
    total += subgroupShuffleXor(total, 1u << ${s}u);
#end
    let share = 1.0 / total;
    let query = q0 + subgroup * ${QR}u + row;
    let at = (p.o_offset + group.z * p.o_batch + query * p.o_pitch) / 2u + head + part * (${OV}u / 2u);
    let o_at = s_base + row * PS + part * (${OV}u * 4u / S);
#repeat c ${OC}
#repeat i ${QF}
#repeat d ${OD}
    let end${i}_${c}_${d} = s_base + ${i}u * ${F}u * PS + ${d}u * ${F}u / S;
    coopStoreT(o${i}_${c}_${d}, &scores[end${i}_${c}_${d}], PS);
#end
#end
    workgroupBarrier();
    if query < p.queries {
#repeat n ${CH}
        {
            let lo = bounded(score_at(o_at + ${n}u * (8u / S)) * share, MOST);
            let hi = bounded(score_at(o_at + ${n}u * (8u / S) + 4u / S) * share, MOST);
            out[at + ${c}u * ${OW}u / 8u + ${n}u] = Halves(vec4<f16>(lo), vec4<f16>(hi));
        }
#end
    }
    workgroupBarrier();
#end
}

// Attention with heads 64 wide in one pass over the keys (Dao et al., 2022,
// "FlashAttention"): out = softmax(scale Q K^T) V, never holding more than 32
// scores a query. For GPUs; other widths, and CPU adapters, go through
// products over chunks of queries (see kernel/attention.rs).
//
// Bindings and shapes: q [batch, queries, heads, 64], k and v [batch, keys,
// heads, 64], out as q, each at an offset and pitch of its own (in vec4s), so
// that fused projections are read where they lie. Softmax runs in f32.
//
// A workgroup of 64 makes 32 queries of one head, 32 keys at a time. Each
// invocation holds 4 x 4 scores, then 4 rows x 8 columns of the output.
// Shared memory: 30.5 KB. Rows of Q and K are 17 vec4s apart, so that lanes
// that read one column of neighbouring rows hit different banks.
//
// On an NVIDIA H200 (docs/gpu.md) 8.9 TFLOP/s over 4096 and 1024 tokens.

#import storage
#import attention_params

@group(0) @binding(0) var<storage, read> q: array<Act>;
@group(0) @binding(1) var<storage, read> k: array<Act>;
@group(0) @binding(2) var<storage, read> v: array<Act>;
@group(0) @binding(3) var<storage, read_write> out: array<Act>;
@group(0) @binding(4) var<uniform> p: Params;

// Below every score. The first block of keys has one that each query sees, so that
// no maximum stays there and masked scores, far below it, weigh nothing.
const MASKED: f32 = -0x1.fffffep127;

// Values are summed in units of 2^16: before the division a sum may be that many
// times the largest.
const UNIT: f32 = 0x1p-16;

// exp(x - top), 0 where that is below exp(-80); not a number where x is none.
fn weight(x: f32, top: f32) -> f32 {
    return select(exp(x - top), 0.0, x - top < -80.0);
}

var<workgroup> q_tile: array<vec4<f32>, 544>;  // [32][17]
var<workgroup> k_tile: array<vec4<f32>, 544>;  // [32][17]
var<workgroup> v_tile: array<vec4<f32>, 512>;  // [32][16]
var<workgroup> score: array<f32, 1152>;        // [32][36]
var<workgroup> row_rescale: array<f32, 32>;
var<workgroup> row_sum: array<f32, 32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * 32u;
    let head = group.y * 16u;
    let q_base = p.q_offset + group.z * p.q_batch + head;
    let k_base = p.k_offset + group.z * p.k_batch + head;
    let v_base = p.v_offset + group.z * p.v_batch + head;
    let ty = thread / 8u;
    let tx = thread % 8u;
    for (var i = thread; i < 512u; i += 64u) {
        let row = min(first + i / 16u, p.queries - 1u);
        q_tile[(i / 16u) * 17u + i % 16u] = widen(q[q_base + row * p.q_pitch + i % 16u]) * p.scale;
    }
    // Row `thread` of the softmax is kept by invocation `thread` < 32.
    var maximum = MASKED;
    var sum = 0.0;
#repeat i 4
    var lo${i} = vec4(0.0);
    var hi${i} = vec4(0.0);
#end
    var last = p.keys;
    if p.causal != 0u {
        last = min(last, first + 32u);
    }
    for (var start = 0u; start < last; start += 32u) {
        workgroupBarrier();
        for (var i = thread; i < 512u; i += 64u) {
            let row = min(start + i / 16u, p.keys - 1u);
            k_tile[(i / 16u) * 17u + i % 16u] = widen(k[k_base + row * p.k_pitch + i % 16u]);
            v_tile[i] = widen(v[v_base + row * p.v_pitch + i % 16u]) * UNIT;
        }
        workgroupBarrier();
#repeat i 4
        var s${i} = vec4(0.0);
#end
        for (var d = 0u; d < 16u; d++) {
#repeat j 4
            let k${j} = k_tile[(tx + ${j}u * 8u) * 17u + d];
#end
#repeat i 4
            {
                let x = q_tile[(4u * ty + ${i}u) * 17u + d];
                s${i} += vec4(dot(x, k0), dot(x, k1), dot(x, k2), dot(x, k3));
            }
#end
        }
#repeat i 4
#repeat j 4
        {
            let key = start + tx + ${j}u * 8u;
            let seen = key < p.keys && (p.causal == 0u || key <= first + 4u * ty + ${i}u);
            score[(4u * ty + ${i}u) * 36u + tx + ${j}u * 8u] = select(MASKED, s${i}[${j}], seen);
        }
#end
#end
        workgroupBarrier();
        if thread < 32u {
            let at = thread * 36u;
            var top = maximum;
            for (var i = 0u; i < 32u; i++) {
                top = max(top, score[at + i]);
            }
            let rescale = weight(maximum, top);
            var part = 0.0;
            for (var i = 0u; i < 32u; i++) {
                let e = weight(score[at + i], top);
                score[at + i] = e;
                part += e;
            }
            sum = sum * rescale + part;
            maximum = top;
            row_rescale[thread] = rescale;
            row_sum[thread] = sum;
        }
        workgroupBarrier();
#repeat i 4
        {
            let rescale = row_rescale[4u * ty + ${i}u];
            lo${i} *= rescale;
            hi${i} *= rescale;
        }
#end
        for (var i = 0u; i < 32u; i++) {
            let a = v_tile[i * 16u + tx];
            let b = v_tile[i * 16u + tx + 8u];
#repeat i 4
            {
                let e = score[(4u * ty + ${i}u) * 36u + i];
                lo${i} = fma(vec4(e), a, lo${i});
                hi${i} = fma(vec4(e), b, hi${i});
            }
#end
        }
    }
#repeat i 4
    {
        let row = first + 4u * ty + ${i}u;
        if row < p.queries {
            let at = p.o_offset + group.z * p.o_batch + row * p.o_pitch + head + tx;
            let total = 1.0 / UNIT / row_sum[4u * ty + ${i}u];
            out[at] = narrow(lo${i} * total);
            out[at + 8u] = narrow(hi${i} * total);
        }
    }
#end
}

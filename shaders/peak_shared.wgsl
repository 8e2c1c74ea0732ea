// The rate at which invocations read shared memory: 16 bytes each, neighbours from
// neighbouring places, eight reads a turn into as many sums.
//
// x [4096] vec4<f32> (read); y [4096] vec4<f32> (written); p.turns. Workgroups of LANES,
// 8 KiB of shared memory each.
#import peak_params

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> tile: array<vec4<f32>, 512>;

@compute @workgroup_size(${LANES})
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    for (var i = lane; i < 512u; i += ${LANES}u) {
        tile[i] = x[(id.x + i) % 4096u];
    }
    workgroupBarrier();
#repeat i 8
    var s${i} = vec4(0.0);
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat i 8
        s${i} += tile[(lane + t * 8u + ${i}u * 64u) % 512u];
#end
    }
    y[id.x % 4096u] = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
}

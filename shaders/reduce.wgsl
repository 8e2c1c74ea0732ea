// Sums and maxima over the invocations that share a row. With WIDE a row
// belongs to a workgroup of 64 and they meet in shared memory; without it a row
// belongs to one invocation and there is nothing to share, which suits CPU
// adapters, where a barrier costs more than the row.

#ifdef WIDE
const LANES: u32 = 64u;
var<workgroup> meeting: array<f32, 64>;
var<workgroup> eighths: array<f32, 8>;

// Eight lanes take eight values each, then every lane the eight results: two barriers.
// Between a lane's reading of either array and the next writing of it lies one.
fn reduce_sum(lane: u32, x: f32) -> f32 {
    meeting[lane] = x;
    workgroupBarrier();
    if lane < 8u {
        var sum = meeting[lane];
        for (var i = 1u; i < 8u; i++) {
            sum += meeting[lane + 8u * i];
        }
        eighths[lane] = sum;
    }
    workgroupBarrier();
    var sum = eighths[0];
    for (var i = 1u; i < 8u; i++) {
        sum += eighths[i];
    }
    return sum;
}

fn reduce_max(lane: u32, x: f32) -> f32 {
    meeting[lane] = x;
    workgroupBarrier();
    if lane < 8u {
        var top = meeting[lane];
        for (var i = 1u; i < 8u; i++) {
            top = max(top, meeting[lane + 8u * i]);
        }
        eighths[lane] = top;
    }
    workgroupBarrier();
    var top = eighths[0];
    for (var i = 1u; i < 8u; i++) {
        top = max(top, eighths[i]);
    }
    return top;
}

fn row_of(workgroup: vec3<u32>, grid: vec3<u32>, lane: u32) -> u32 {
    return workgroup.y * grid.x + workgroup.x;
}

fn lane_of(lane: u32) -> u32 {
    return lane;
}
#else
const LANES: u32 = 1u;

fn reduce_sum(lane: u32, x: f32) -> f32 {
    return x;
}

fn reduce_max(lane: u32, x: f32) -> f32 {
    return x;
}

fn row_of(workgroup: vec3<u32>, grid: vec3<u32>, lane: u32) -> u32 {
    return (workgroup.y * grid.x + workgroup.x) * 8u + lane;
}

fn lane_of(lane: u32) -> u32 {
    return 0u;
}
#endif

fn sum4(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn max4(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

// Which columns of vec4 number `i` are below `count`. The others are left out by
// `select`, not by a factor of 0, which not every value times is 0.
fn inside(i: u32, count: u32) -> vec4<bool> {
    return vec4(4u * i) + vec4(0u, 1u, 2u, 3u) < vec4(count);
}

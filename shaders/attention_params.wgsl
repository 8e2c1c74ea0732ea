// What the kernels of attention are told: rows, and where each operand lies. Offsets,
// pitches and the distances from picture to picture count in vec4s.

struct Params {
    queries: u32,
    keys: u32,
    q_offset: u32,
    q_pitch: u32,
    q_batch: u32,
    k_offset: u32,
    k_pitch: u32,
    k_batch: u32,
    v_offset: u32,
    v_pitch: u32,
    v_batch: u32,
    o_offset: u32,
    o_pitch: u32,
    o_batch: u32,
    causal: u32,
    scale: f32,
}

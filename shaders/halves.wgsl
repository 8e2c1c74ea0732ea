// Eight packed f16 as values. Compilers make nothing of the way through f32.

struct Halves {
    lo: vec4<f16>,
    hi: vec4<f16>,
}

fn halves(unit: vec4<u32>) -> Halves {
    return Halves(
        vec4<f16>(vec4(unpack2x16float(unit.x), unpack2x16float(unit.y))),
        vec4<f16>(vec4(unpack2x16float(unit.z), unpack2x16float(unit.w))),
    );
}

// The rate of cooperative matrices from registers: CHAINS independent sums, four
// multiply-adds of F x F matrices each a turn, operands of type T, sums of type S.
//
// x [16384] T (read); y [16384] S (read and written); p.turns. Workgroups of LANES,
// whose subgroups take different operands; sums begin with what y held. Operands do not
// change, which matrix units do not notice; a CPU that emulates them (Mesa 26's lavapipe)
// multiplies them once and only adds: 250 GOP/s were seen where f32 makes 80.
#import peak_params

@group(0) @binding(0) var<storage, read> x: array<${T}>;
@group(0) @binding(1) var<storage, read_write> y: array<${S}>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(subgroup_id) sg: u32) {
    let at = (g.x % 4u * 8u + sg % 8u) * 256u;
    let a = coopLoadT<coop_mat${F}x${F}<${T}, A>>(&x[at], ${F}u);
    let b = coopLoadT<coop_mat${F}x${F}<${T}, B>>(&x[at + 256u], ${F}u);
#repeat i ${CHAINS}
    var c${i} = coopLoadT<coop_mat${F}x${F}<${S}, C>>(&y[at + ${i}u * 16u], ${F}u);
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat r 4
#repeat i ${CHAINS}
        c${i} = coopMultiplyAdd(a, b, c${i});
#end
#end
    }
#repeat i ${CHAINS}
    coopStoreT(c${i}, &y[at + ${i}u * 16u], ${F}u);
#end
}

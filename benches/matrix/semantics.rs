//! What loads, stores and sums of cooperative matrices mean on a device.

use crate::device::Device;
use anyhow::Result;
use half::f16;

pub fn run(device: &Device) -> Result<()> {
    let f = if device.matrices.iter().any(|m| m.m_size == 16) {
        16
    } else {
        8usize
    };
    let number = |i: usize| ((i * 37 + i / 7) % 9) as f32 - 4.0;
    let x: Vec<f16> = (0..2 * f * f).map(|i| f16::from_f32(number(i))).collect();
    for pitch in [f / 4, f / 4 + 2, 18] {
        for flag in ["PLAIN", "TRANSPOSED", "LOOP", "FAR", "BACK"] {
            let defines = [
                ("F", f),
                ("P", pitch),
                ("SX", 2 * f * pitch),
                ("SS", f * (f / 4 + 1)),
                ("LANES", device.info.subgroup_min_size as usize),
            ]
            .map(|(name, value)| (name, value.to_string()));
            let flags = [("F16", true), (flag, true)];
            let kernel = device.permutation(include_str!("semantics.wgsl"), &defines, &flags)?;
            let input = device.buffer(bytemuck::cast_slice(&x));
            let y = device.buffer(bytemuck::cast_slice(&vec![f32::NAN; f * f]));
            device.pass(&kernel, &[device.job(&kernel, &[&input, &y], [1, 1])], 1)?;
            let got: Vec<f32> =
                bytemuck::pod_collect_to_vec(&device.read(&y, 0, (4 * f * f) as u64)?);
            let wrong = (0..f * f)
                .filter(|i| {
                    let (m, n) = (i / f, i % f);
                    let exact: f32 = (0..f)
                        .map(|k| {
                            let b = if flag == "TRANSPOSED" {
                                n * f + k
                            } else {
                                k * f + n
                            };
                            number(m * f + k) * number(f * f + b)
                        })
                        .sum();
                    got[*i] != if flag == "BACK" { 2.0 * exact } else { exact }
                })
                .count();
            println!(
                "matrices of {f}, pitch {pitch} vec4s, {flag}: {wrong} of {} wrong",
                f * f
            );
        }
    }
    Ok(())
}

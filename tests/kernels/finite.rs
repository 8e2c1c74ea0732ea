//! The look-out for values that are not finite.

use crate::common::{CAP, Device, Random, capped, device};
use calotype::kernel::finite::{Mark, twin};
use calotype::kernel::latent::StepValues;
use calotype::kernel::{Mode, View};

const BAD: [u32; 6] = [
    0x7f80_0000, // infinity
    0xff80_0000,
    0x7fc0_0000, // quiet NaN
    0xffc0_0000,
    0x7f80_0001, // signalling NaN
    0xffff_ffff,
];

/// The largest that is finite, the smallest, and what looks like half an infinity.
const GOOD: [u32; 6] = [
    0x7f7f_ffff,
    0xff7f_ffff,
    0x0000_0001,
    0x8000_0000,
    0x0000_7c00,
    0x7f00_ffff,
];

fn step(device: &Device, number: usize) -> View {
    device.view(bytemuck::bytes_of(&StepValues {
        number: number as f32,
        ..Default::default()
    }))
}

/// A copy whose surroundings are NaN.
fn place(device: &Device, values: &[f32]) -> View {
    let mut bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
    bytes.resize(bytes.len().next_multiple_of(16) + 16, 0xff);
    device.view(&bytes)
}

/// What the mark says after the tensors of several steps, and how many dispatches a
/// step took.
fn found(device: &Device, mode: Mode, steps: &[Vec<f32>]) -> (Option<usize>, usize) {
    let mark = Mark::new(&device.gpu).unwrap();
    let mut bands = 0;
    for (k, values) in steps.iter().enumerate() {
        let x = place(device, values);
        let number = step(device, k + 1);
        let all = mark.watch(&device.gpu, mode, &x, values.len(), Some(&number));
        let all = all.unwrap();
        bands = all.len();
        device.run(all);
    }
    (mark.read(&device.gpu).unwrap(), bands)
}

#[test]
fn one_value_among_many_is_found_wherever_it_is() {
    let mut random = Random::new(1);
    let fixed = [1, 2, 3, 4, 5, 63, 64, 65, 4096, 65536 + 3];
    let drawn: Vec<usize> = (0..25).map(|_| random.size(1, 9000)).collect();
    for (turn, count) in fixed.into_iter().chain(drawn).enumerate() {
        let mut values = Random::new(turn as u64).values(count);
        values[count / 2] = f32::from_bits(GOOD[turn % GOOD.len()]);
        let mut spoilt = values.clone();
        let at = [0, count - 1, random.size(0, count - 1)][turn % 3];
        spoilt[at] = f32::from_bits(BAD[turn % BAD.len()]);
        assert!(twin(&values) && !twin(&spoilt));
        for direct in [true, false] {
            let mode = Mode { direct };
            let good = found(device(), mode, &[values.clone()]);
            assert_eq!(good, (None, 1), "{count} {mode:?}");
            let bad = found(device(), mode, &[spoilt.clone()]);
            assert_eq!(bad, (Some(1), 1), "{count} at {at} {mode:?}");
        }
    }
}

#[test]
fn the_first_of_several_steps_counts() {
    let good = Random::new(3).values(100);
    let bad: Vec<f32> = good.iter().map(|x| x / 0.0).collect();
    for direct in [true, false] {
        let mode = Mode { direct };
        // It does not matter that a later step is finite again.
        let steps = [&good, &good, &bad, &bad, &good].map(Clone::clone);
        assert_eq!(found(device(), mode, &steps).0, Some(3));
    }
    // Values that belong to no step, and a mark that is used again.
    let mark = Mark::new(&device().gpu).unwrap();
    for (values, wanted) in [(&bad, Some(0)), (&good, None)] {
        mark.clear(&device().gpu).unwrap();
        let x = place(device(), values);
        let mode = Mode { direct: true };
        let all = mark.watch(&device().gpu, mode, &x, values.len(), None);
        device().run(all.unwrap());
        assert_eq!(mark.read(&device().gpu).unwrap(), wanted);
    }
}

#[test]
fn bands_see_every_value_once() {
    let count = 2 * CAP as usize / 4 + 5;
    for at in [0, count / 3, count - 5, count - 1] {
        let mut values = Random::new(at as u64).values(count);
        for direct in [true, false] {
            let mode = Mode { direct };
            values[at] = 1.0;
            let (none, bands) = found(capped(), mode, &[values.clone()]);
            assert_eq!(none, None);
            assert!(bands > 2, "{bands}");
            values[at] = f32::NAN;
            assert_eq!(found(capped(), mode, &[values.clone()]).0, Some(1));
        }
    }
}

#[test]
fn more_values_than_there_are_is_an_error() {
    let mark = Mark::new(&device().gpu).unwrap();
    let mode = Mode { direct: true };
    let x = place(device(), &[1.0; 8]);
    let watch = |x: &View, count| mark.watch(&device().gpu, mode, x, count, None);
    assert!(watch(&x, 8).is_ok());
    let held = x.size as usize / 4;
    assert!(watch(&x, held + 1).is_err());
    let odd = View { offset: 264, ..x };
    assert!(watch(&odd, 4).is_err());
}

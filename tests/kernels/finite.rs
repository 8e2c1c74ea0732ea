//! The look-out for values that are not finite.

use crate::common::{CAP, Device, Random, capped, device, modes, sweep};
use calotype::kernel::finite::Mark;
use calotype::kernel::latent::StepValues;
use calotype::kernel::{Mode, View};

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

/// 35 numbers of values, all of them finite and not.
#[test]
fn one_value_among_many_is_found_wherever_it_is() {
    sweep("sweep watch", modes, 70);
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

//! Sinusoidal embeddings.

use crate::common::{BELOW, Margin, Random, Report, device, rounded, storages};
use calotype::kernel::Storage;
use calotype::kernel::sinusoid::{MAX_DIM, Sinusoid, dispatch, twin};

#[test]
fn sinusoids() {
    let mut report = Report::new("sinusoid");
    let margin = Margin {
        left: 0,
        right: 3,
        after: 2,
    };
    let mut random = Random::new(1);
    let fixed = [
        ([1, 1], 8),
        ([1, 1], 320),
        ([2, 6], 256),
        ([1, 5], 256),
        ([3, 1], 384),
        ([1, 2], MAX_DIM),
        ([7, 3], 16),
    ];
    let drawn = (0..26).map(|_| {
        let rows = [random.size(1, 5), random.size(1, 7)];
        (rows, 8 * random.size(1, 60))
    });
    for (i, ([rows, per_row], dim)) in fixed.into_iter().chain(drawn).enumerate() {
        let mut random = Random::new(i as u64);
        let mut values: Vec<f32> = random.values(rows * per_row);
        for (v, top) in values
            .iter_mut()
            .zip([999.0, 8192.0, 1024.0, 1.0].iter().cycle())
        {
            *v = (*v * top).abs();
        }
        values[0] = [999.0, 8192.0, 8191.0, 0.25, 4096.5][i % 5];
        let sinusoid = Sinusoid {
            dim,
            cos_first: i % 2 == 0,
            shift: (i / 2 % 2) as f32,
        };
        for storage in storages() {
            let y = device().blank(storage, [1, rows, 1, per_row * dim], margin);
            let given = device().floats(&values, 1);
            let one = dispatch(&given, &y, sinusoid, values.len());
            device().run(vec![one.unwrap()]);
            let twin = rounded(storage, &twin(&values, sinusoid));
            let out = device().read(&y);
            report.compare("", storage, &out, &twin, &(sinusoid, rows, per_row));
        }
    }
    report.finish(30);
}

/// Beyond what a reduction in f32 can do the columns are still sines.
#[test]
fn sinusoids_of_large_values() {
    let sinusoid = Sinusoid {
        dim: 16,
        cos_first: true,
        shift: 0.0,
    };
    for value in [1e6, -1e7, 1e10, 1e20, 1e30, f32::MAX, f32::MIN] {
        let y = device().blank(Storage::F32, [1, 1, 1, 16], BELOW);
        let given = device().floats(&[value], 1);
        device().run(vec![dispatch(&given, &y, sinusoid, 1).unwrap()]);
        let out = device().read(&y);
        let within = out.iter().all(|x| (-1.001..=1.001).contains(x));
        assert!(within, "{value:e}: {out:?}");
    }
}

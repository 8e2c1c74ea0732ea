//! The kernels of the denoising loop.

use crate::common::{BELOW, Random, Report, device, kinds, rounded};
use calotype::gpu::Gpu;
use calotype::kernel::latent::{
    StepValues, guidance, input, twin_guidance, twin_input, twin_update, update,
};
use calotype::kernel::{Storage, View};

const STEP: StepValues = StepValues {
    timestep: 999.0,
    input_scale: 0.0683,
    guidance_scale: 7.5,
    a: 0.97,
    b: -0.31,
    unused: [0.0; 3],
};

fn step() -> View {
    device().view(bytemuck::bytes_of(&STEP))
}

/// Pictures, pixels and channels.
fn shapes() -> Vec<[usize; 3]> {
    let mut random = Random::new(1);
    let drawn = (0..26).map(|_| {
        [
            random.size(1, 4),
            random.size(1, 3000),
            4 * random.size(1, 3),
        ]
    });
    let fixed = [[1, 1, 4], [2, 64, 4], [3, 65, 8], [1, 4097, 4]];
    fixed.into_iter().chain(drawn).collect()
}

#[test]
fn inputs() {
    let mut report = Report::new("latent input");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let x = Random::new(i as u64).values(pixels * c);
        let twin = twin_input(&x, STEP.input_scale, n);
        for (tuning, storage) in kinds() {
            let y = device().blank(storage, [n, pixels, 1, c], BELOW);
            device().run(vec![input(tuning, &device().floats(&x, 4), &step(), &y)]);
            let out = device().read(&y);
            report.compare(tuning, storage, &out, &twin, &[n, pixels, c]);
        }
    }
    report.finish(30);
}

#[test]
fn guided_predictions() {
    let mut report = Report::new("guidance");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = pixels * c;
        let values = Random::new(i as u64).values(n * count);
        let (from, to) = (i % n, (i + 1) % n);
        for (tuning, storage) in kinds() {
            let both = device().tensor(storage, [n, pixels, 1, c], &values, BELOW);
            let seen = rounded(storage, &values);
            let picture = |place: usize| &seen[place * count..][..count];
            for guided in [true, false] {
                let u = guided.then_some((&both, from));
                let y = device().room(count);
                device().run(vec![guidance(tuning, u, (&both, to), &step(), &y)]);
                let twin = if guided {
                    twin_guidance(picture(from), picture(to), STEP.guidance_scale)
                } else {
                    picture(to).to_vec()
                };
                let out = device().read_floats(&y, count);
                report.compare(tuning, storage, &out, &twin, &[n, pixels, c]);
            }
        }
    }
    report.finish(30);
}

#[test]
fn updates() {
    let mut report = Report::new("latent update");
    for (i, [_, pixels, c]) in shapes().into_iter().enumerate() {
        let count = pixels * c;
        let mut random = Random::new(i as u64);
        let (x, e) = (random.values(count), random.values(count));
        let twin = twin_update(&x, &e, [STEP.a, STEP.b]);
        for (tuning, _) in kinds() {
            let gpu: &Gpu = &device().gpu;
            let place = device().room(count);
            let bytes = Storage::F32.encode(&x);
            gpu.queue()
                .write_buffer(place.buffer.raw(), place.offset, &bytes);
            let e = device().floats(&e, 4);
            device().run(vec![update(tuning, &place, &e, &step(), count / 4)]);
            let out = device().read_floats(&place, count);
            report.compare(tuning, Storage::F32, &out, &twin, &[pixels, c]);
        }
    }
    report.finish(30);
}

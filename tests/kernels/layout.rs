//! Planes to pixels and back.

use crate::common::{BELOW, Random, Report, device, kinds, rounded};
use calotype::kernel::layout::{to_pixels, to_planes, twin_to_pixels, twin_to_planes};

#[test]
fn layouts() {
    let mut there = Report::new("to pixels");
    let mut back = Report::new("to planes");
    let fixed = [
        [1, 1, 1, 1],
        [1, 3, 8, 8],
        [2, 3, 7, 9],
        [1, 4, 65, 1],
        [3, 5, 1, 63],
        [1, 320, 3, 3],
        [2, 8, 64, 64],
    ];
    let mut random = Random::new(1);
    let drawn = (0..25).map(|_| {
        [
            random.size(1, 3),
            random.size(1, 40),
            random.size(1, 40),
            random.size(1, 40),
        ]
    });
    for (i, [n, c, h, w]) in fixed.into_iter().chain(drawn).enumerate() {
        let values = Random::new(i as u64).values(n * c * h * w);
        let affine = [[1.0, 0.0], [2.0, -1.0], [0.13025, 0.25]][i % 3];
        let (shape, sizes) = ([n, h, w, c], [n, c, h * w]);
        for (mode, storage) in kinds() {
            let pixels = device().blank(storage, shape, BELOW);
            let planes = device().floats(&values, 1);
            device().run(vec![to_pixels(mode, &planes, &pixels, affine).unwrap()]);
            let twin = twin_to_pixels(&values, sizes, affine);
            let out = device().read(&pixels);
            there.compare(mode, storage, &out, &twin, &shape);

            let pixels = device().tensor(storage, shape, &values, BELOW);
            let planes = device().room(values.len());
            device().run(vec![to_planes(mode, &pixels, &planes, affine).unwrap()]);
            let twin = twin_to_planes(&rounded(storage, &values), sizes, affine);
            let out = device().read_floats(&planes, values.len());
            back.compare(mode, storage, &out, &twin, &shape);
        }
    }
    there.finish(30);
    back.finish(30);
}

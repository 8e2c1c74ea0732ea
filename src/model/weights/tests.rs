//! Weights where the kernels look for them: at once, later, in pieces.

use super::*;
use crate::checkpoint::DType;
use crate::graph::Kernel;
use crate::graph::{Executor, Runner};
use crate::kernel::{Context, Mode, Storage};
use half::{bf16, f16};
use std::rc::Rc;

/// The f32 values of a file's tensor, and its bytes in a precision.
fn tensor(dtype: DType, count: usize, seed: usize) -> (Vec<f32>, Vec<u8>) {
    let values = (0..count).map(|i| ((i * 37 + seed * 101) % 4001) as f32 / 3.0 - 600.0);
    match dtype {
        DType::F32 => (values.clone().collect(), {
            values.flat_map(f32::to_le_bytes).collect()
        }),
        DType::F16 => {
            let halves: Vec<f16> = values.map(f16::from_f32).collect();
            let bytes = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
            (halves.iter().map(|x| x.to_f32()).collect(), bytes)
        }
        DType::BF16 => {
            let brains: Vec<bf16> = values.map(bf16::from_f32).collect();
            let bytes = brains.iter().flat_map(|x| x.to_le_bytes()).collect();
            (brains.iter().map(|x| x.to_f32()).collect(), bytes)
        }
        // Any bytes are blocks; here with scales that stay small.
        blocks => {
            let bytes = blocks.bytes(count).unwrap();
            let bytes: Vec<u8> = (0..bytes).map(|i| ((i * 37 + seed) % 0x3b) as u8).collect();
            let mut values = vec![0.0; count];
            blocks.widen(&bytes, &mut values);
            (values, bytes)
        }
    }
}

/// Tensors by name.
struct Named(HashMap<String, (DType, Vec<u8>)>, bool);

impl TensorSource for Named {
    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn check(&self, _: &str, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let (dtype, bytes) = &self.0[name];
        Ok(TensorView::new(*dtype, shape, bytes.as_slice()))
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        self.1.then(|| self.0[name].0)
    }
}

/// What the device has, against every value put by itself where the kernels look
/// for it: all precisions, odd sizes, gates, convolutions, layers side by side whose
/// precisions differ, as where an adapter changes the query alone, and weights of
/// which a panel is larger than what is uploaded at a time. Whether the values are
/// read at once or follow changes nothing.
#[test]
fn every_value_is_where_the_kernels_look_for_it() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let (q, qkv) = (vec!["q".to_string()], ["q", "k", "v"].map(String::from));
    let conv = |k, n| Product::new("q", Kernel::Conv3x3, [k, n], true);
    let mut products: Vec<(Product, Vec<DType>)> = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        products.extend([
            (Product::side_by_side(&q, [1, 1], true), vec![dtype]),
            (Product::side_by_side(&q, [203, 130], true), vec![dtype]),
            (Product::side_by_side(&qkv, [72, 66], false), vec![dtype; 3]),
            (conv(19, 70), vec![dtype]),
            (Product::linear("q", [37, 152]).with_geglu(), vec![dtype]),
        ]);
    }
    let mixed = vec![DType::F32, DType::F16, DType::BF16];
    products.push((Product::side_by_side(&qkv, [24, 10], true), mixed));
    products.push((conv(4000, 3), vec![DType::F16]));
    // Blocks that reach over columns, as where a convolution was quantised flat.
    for dtype in [DType::F8E4M3, DType::Q8_0, DType::Q5K] {
        let product = Product::side_by_side(&q, [48, 192], false);
        products.push((product, vec![dtype]));
    }
    for (product, dtypes) in products {
        let layout = product.layout();
        let (mut tensors, mut values) = (HashMap::new(), Vec::new());
        for (i, (name, shape)) in product.tensors().into_iter().enumerate() {
            let of_bias = shape.len() == 1;
            let part = product.parts.iter().position(|(p, _)| name.starts_with(p));
            let dtype = dtypes[part.unwrap()];
            let (wide, bytes) = tensor(dtype, shape.iter().product(), i);
            if !of_bias {
                values.extend(wide);
            }
            tensors.insert(name, (dtype, bytes));
        }
        for (storage, known) in [
            (WeightStorage::F16, false),
            (WeightStorage::F16, true),
            (WeightStorage::F32, false),
            (WeightStorage::F32, true),
        ] {
            let source = Named(tensors.clone(), known);
            let loaded = Loaded::default();
            let weights = DeviceWeights::new(&gpu, &source, storage, &loaded);
            let Placed { weight, .. } = weights.product(&product).unwrap();
            weights.fill().unwrap();
            let all_f16 = dtypes.iter().all(|dtype| dtype.fits_f16());
            let storage = if all_f16 { WeightStorage::F16 } else { storage };
            assert_eq!(weight.storage, storage, "{product:?} {dtypes:?}");
            let bytes = gpu.download(&weight.view.buffer, 0, weight.view.size);
            let mut want = vec![0f32; layout.bytes(WeightStorage::F32) as usize / 4];
            for (j, column) in values.chunks(layout.k * layout.taps).enumerate() {
                let half = layout.n / 2;
                let place = match layout.geglu {
                    true => j % half / 4 * 8 + j / half * 4 + j % half % 4,
                    false => j,
                };
                for (i, value) in column.iter().enumerate() {
                    let (row, tap) = (i / layout.taps, i % layout.taps);
                    let k8 = (place / 64 * layout.taps + tap) * layout.k.div_ceil(8) + row / 8;
                    want[(k8 * 64 + place % 64) * 8 + row % 8] = *value;
                }
            }
            let want: Vec<u8> = match storage {
                WeightStorage::F32 => want.iter().flat_map(|x| x.to_le_bytes()).collect(),
                WeightStorage::F16 => {
                    let halves = want.iter().map(|x| f16::from_f32(*x));
                    halves.flat_map(f16::to_le_bytes).collect()
                }
            };
            assert!(bytes.unwrap() == want, "{product:?} {dtypes:?} {storage:?}");
        }
    }
}

/// Layers of 4 columns over 8 channels, all of whose values are their names' first byte.
struct Layers;

impl TensorSource for Layers {
    fn contains(&self, _: &str) -> bool {
        true
    }

    fn check(&self, _: &str, _: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let values = vec![f32::from(name.as_bytes()[0]); shape.iter().product()];
        let bytes = bytemuck::cast_slice(&values).to_vec();
        Ok(TensorView::new(DType::F32, shape, bytes))
    }
}

/// More weights than two pieces hold: each layer finds its own, in every run.
#[test]
fn streamed_pieces_take_turns() {
    const SIDE: usize = 1024;
    let gpu = Gpu::open(&Default::default()).unwrap();
    let mut g = Graph::new();
    let x = g.input("x", [1, 3, 1, SIDE]);
    let layers = 'a'..='l';
    let mut sum = None;
    for name in layers.clone() {
        let y = g.linear(x, Product::linear(name.to_string(), [SIDE, SIDE]));
        sum = Some(match sum {
            Some(sum) => g.add(sum, y),
            None => y,
        });
    }
    g.output(sum.unwrap());
    let g = g.optimise();
    let keeping = Keeping {
        resident: Some(0),
        ..WeightStorage::F16.into()
    };
    let loaded = Loaded::default();
    let weights = DeviceWeights::new(&gpu, &Layers, keeping, &loaded);
    let context = Context::new(&gpu, Mode { direct: true }).unwrap();
    let none = HashMap::new();
    let executor = Executor::new(&context, Storage::F32, &g, &weights, &none).unwrap();
    executor
        .write(&gpu, "x", &[1.0 / SIDE as f32; 3 * SIDE])
        .unwrap();
    let stream = Rc::new(Streamed::new(&gpu, &Layers, &loaded));
    let runner = Runner::new(&gpu, false).unwrap();
    let mut runner = runner.with_stream(stream.clone());
    // Of each layer its value, times the sum of x, and its bias.
    let expected: f32 = layers.map(|name| 2.0 * f32::from(name as u8)).sum();
    for _ in 0..3 {
        runner.run(|_| {}, &[executor.step()], &|| false).unwrap();
        runner.finish().unwrap();
        let made = executor.read(&gpu, 0).unwrap();
        assert!(
            made.iter().all(|y| *y == expected),
            "{} {expected}",
            made[0]
        );
    }
    let once = loaded.streamed_bytes();
    assert_eq!(once, 12 * 2 * (SIDE * SIDE) as u64);
    assert!(stream.bytes() > 2 * once, "{} of {once}", stream.bytes());
    // Two pieces and the biases are all that is on the device.
    let there = loaded.bytes() + loaded.shared_bytes();
    assert!(there < once, "{there}");
    let none = Runner::new(&gpu, false)
        .unwrap()
        .run(|_| {}, &[executor.step()], &|| false);
    assert!(matches!(none, Err(Error::Internal { .. })));
}

/// The query alone beside query, key and value, and what else differs.
#[test]
fn products_that_share_a_layer_have_weights_of_their_own() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let loaded = Loaded::default();
    let weights = DeviceWeights::new(&gpu, &Layers, WeightStorage::F32, &loaded);
    let bytes = |view: &View| gpu.download(&view.buffer, view.offset, view.size).unwrap();
    let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let products = [
        Product::side_by_side(&names(&["q"]), [8, 4], false),
        Product::side_by_side(&names(&["q", "k", "v"]), [8, 4], false),
        Product::side_by_side(&names(&["q", "v", "k"]), [8, 4], false),
        Product::side_by_side(&names(&["q", "k"]), [8, 4], true),
        Product::side_by_side(&names(&["q", "k"]), [8, 4], true).with_geglu(),
    ];
    for product in &products {
        let Placed { weight, bias, .. } = weights.product(product).unwrap();
        weights.fill().unwrap();
        let again = Loaded::default();
        let alone = DeviceWeights::new(&gpu, &Layers, WeightStorage::F32, &again);
        let Placed {
            weight: fresh,
            bias: fresh_bias,
            ..
        } = alone.product(product).unwrap();
        alone.fill().unwrap();
        assert_eq!(weight.n8, fresh.n8, "{product:?}");
        assert_eq!(bytes(&weight.view), bytes(&fresh.view), "{product:?}");
        assert_eq!(bias.is_some(), product.bias, "{product:?}");
        assert_eq!(bias.map(|b| bytes(&b)), fresh_bias.map(|b| bytes(&b)));
    }
    // Asked for again, they are not uploaded again.
    let Placed { weight, .. } = weights.product(&products[1]).unwrap();
    let Placed { weight: again, .. } = weights.product(&products[1].clone()).unwrap();
    assert!(Arc::ptr_eq(&weight.view.buffer, &again.view.buffer));
    assert_eq!(lock(&loaded.products).len(), products.len());
}

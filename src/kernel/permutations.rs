//! Every pipeline that the kernels can ask for.

use super::{
    Mode, Storage, attention, finite, latent, layout, map, narrow, norm, product, sinusoid,
    subgroup,
};
use crate::gpu::PipelineKey;
use product::{BlockFormat, Storages, Variant};

/// All shader permutations, for tests of their validity.
pub fn permutations() -> Vec<PipelineKey> {
    let mut all = vec![subgroup::pipeline_key()];
    for storages in Storages::all() {
        for gather in [false, true] {
            let variants = Variant::all().into_iter();
            all.extend(variants.filter_map(|v| v.key(storages, gather)));
        }
    }
    for direct in [false, true] {
        let mode = Mode { direct };
        all.push(norm::finish_key(mode));
        for format in [BlockFormat::Q8, BlockFormat::Q4] {
            all.push(product::expand_key(mode, format));
        }
        all.push(narrow::largest_key(mode));
        all.push(narrow::factor_key(mode));
        all.push(narrow::narrow_key(mode));
        all.push(norm::apply_key(mode, Storage::F32, Storage::F16));
        all.push(norm::softmax_key(mode));
        all.push(norm::weights_key(mode));
        all.push(finite::pipeline_key(mode));
        all.push(latent::update_key(mode));
        all.push(latent::threshold_key());
        all.push(latent::mask_key(mode));
        for storage in [Storage::F32, Storage::F16] {
            for masked in [false, true] {
                let variants = attention::Variant::all().into_iter();
                all.extend(variants.filter_map(|v| v.key(storage, masked)));
            }
            all.extend(norm::LAYER_ROWS.map(|rows| norm::layer_key(mode, storage, rows)));
            all.extend([
                norm::stats_key(mode, storage),
                norm::apply_key(mode, storage, storage),
                map::pipeline_key(mode, storage),
                latent::input_key(mode, storage),
                latent::guidance_key(mode, storage),
                latent::rescale_key(storage),
                layout::pipeline_key(mode, storage, true),
                layout::pipeline_key(mode, storage, false),
                attention::transpose_key(storage),
                sinusoid::pipeline_key(storage),
                product::sum_key(storage),
            ]);
        }
    }
    all.sort_by_key(|k| k.label());
    all.dedup();
    all
}

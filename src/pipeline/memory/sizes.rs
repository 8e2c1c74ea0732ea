//! What the parts of a request take on the device, from their graphs.

use super::unet_size;
use crate::checkpoint::{Checkpoint, Part};
use crate::graph::Graph;
use crate::kernel::product::BlockFormat;
use crate::model::{DeviceWeights, Keeping, Loaded, WeightSizes, autoencoder, clip, time, unet};
use crate::pipeline::load::Model;
use crate::pipeline::{Pipeline, Refinement, Request, condition};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Sizes of the parts in bytes, for one request.
pub(in crate::pipeline) struct Sizes<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    /// Bytes of activations by predictions, and of the VAE's by tile: plans ask again and
    /// again, and graphs take time.
    unet: RefCell<BTreeMap<usize, u64>>,
    vae: RefCell<BTreeMap<Option<usize>, u64>>,
}

/// What `known` has of `key`, else made and kept.
fn once<K: Ord + Copy>(
    known: &RefCell<BTreeMap<K, u64>>,
    key: K,
    make: impl FnOnce() -> u64,
) -> u64 {
    *known.borrow_mut().entry(key).or_insert_with(make)
}

impl<'a> Sizes<'a> {
    pub fn new(pipeline: &'a Pipeline, request: &'a Request) -> Self {
        Self {
            pipeline,
            request,
            unet: RefCell::default(),
            vae: RefCell::default(),
        }
    }

    fn refiner(&self) -> Option<&Model> {
        let refiner = self.pipeline.refiner.as_ref();
        refiner
            .filter(|_| self.request.refinement != Refinement::None)
            .map(|refiner| &refiner.model)
    }

    fn weights(
        &self,
        checkpoint: &Checkpoint,
        part: Part,
        keeping: Keeping,
        graphs: &[Graph],
    ) -> WeightSizes {
        let loaded = Loaded::default();
        let source = checkpoint.source(part);
        let weights = DeviceWeights::new(&self.pipeline.gpu, source, keeping, &loaded);
        graphs.iter().map(|graph| weights.sizes(graph)).sum()
    }

    fn keeping(&self, blocks: Option<BlockFormat>) -> Keeping {
        Keeping {
            blocks,
            ..self.pipeline.precision.weights.into()
        }
    }

    /// The weights of the base's UNet, or of the refiner's.
    pub fn unet(&self, of_refiner: bool, blocks: Option<BlockFormat>) -> WeightSizes {
        let model = match of_refiner {
            false => &self.pipeline.base,
            true => match self.refiner() {
                Some(refiner) => refiner,
                None => return WeightSizes::default(),
            },
        };
        let checkpoint = &model.checkpoint;
        let size = unet_size(self.pipeline, self.request, 1);
        let graphs = [
            unet::graph(&checkpoint.unet, size).optimise(),
            time::graph(&checkpoint.unet, checkpoint.time_id_count(), 1).optimise(),
        ];
        self.weights(checkpoint, Part::UNet, self.keeping(blocks), &graphs)
    }

    /// Activations of a UNet call of so many predictions.
    pub fn unet_activations(&self, predictions: usize) -> u64 {
        once(&self.unet, predictions, || {
            self.new_unet_activations(predictions)
        })
    }

    fn new_unet_activations(&self, predictions: usize) -> u64 {
        let size = unet_size(self.pipeline, self.request, predictions);
        let pass = match self.request.cache_interval {
            1 => unet::Pass::Whole,
            _ => unet::Pass::Keeping,
        };
        let models = [Some(&self.pipeline.base), self.refiner()];
        let bytes = models.into_iter().flatten().map(|model| {
            let graph = unet::graph_of(&model.checkpoint.unet, size, pass).optimise();
            let activations = self.pipeline.precision.activations;
            graph
                .planned_bytes(self.pipeline.context.mode, activations)
                .0
        });
        bytes.max().unwrap_or(0)
    }

    /// Of each text encoder on its own, the base's and then the refiner's: weights, and
    /// activations.
    pub fn texts(&self) -> Vec<(WeightSizes, u64)> {
        let mut all = self.texts_of(&self.pipeline.base);
        if let (Some(refiner), Some(own)) = (self.refiner(), &self.pipeline.refiner)
            && !own.shares_encoder
        {
            all.extend(self.texts_of(refiner));
        }
        all
    }

    fn texts_of(&self, model: &Model) -> Vec<(WeightSizes, u64)> {
        let checkpoint = &model.checkpoint;
        let first = checkpoint.text_encoder.as_ref();
        let first = first.map(|config| (Part::TextEncoder, config));
        let both = first
            .into_iter()
            .chain([(Part::TextEncoder2, &checkpoint.text_encoder_2)]);
        both.map(|(part, config)| {
            let tokens = checkpoint.tokenizer_2.max_length();
            let graph = clip::graph(config, tokens, 0).optimise();
            let mode = self.pipeline.context.mode;
            let activations = graph
                .planned_bytes(mode, condition::activations(self.pipeline))
                .0;
            let keeping = self.keeping(None);
            (
                self.weights(checkpoint, part, keeping, &[graph]),
                activations,
            )
        })
        .collect()
    }

    /// The VAE's weights: its decoder's, and its encoder's where a picture is encoded.
    pub fn vae(&self) -> u64 {
        let checkpoint = &self.pipeline.base.checkpoint;
        let config = &checkpoint.vae;
        let mut graphs = vec![autoencoder::decoder(config, [8, 8])];
        if self.request.image.is_some() && config.has_encoder() {
            graphs.push(autoencoder::encoder(config, [64, 64]));
        }
        let sizes = self.weights(checkpoint, Part::Vae, self.keeping(None), &graphs);
        sizes.weights + sizes.others
    }

    /// Activations of the VAE, whole or on tiles of `tile` latents.
    pub fn vae_activations(&self, tile: Option<usize>) -> u64 {
        once(&self.vae, tile, || self.new_vae_activations(tile))
    }

    fn new_vae_activations(&self, tile: Option<usize>) -> u64 {
        let shape = self.pipeline.latent_shape(self.request);
        let vae = self.pipeline.vae(self.pipeline.options.vae_tiling);
        let vae = match tile {
            Some(side) => vae.on_tiles(side),
            None => vae,
        };
        vae.planned_bytes([shape.h, shape.w], self.request.image.is_some())
    }
}

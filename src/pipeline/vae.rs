//! The VAE: whole where memory allows, otherwise in overlapping tiles whose
//! seams are blended. Each tile by itself would be normed by its own mean and
//! spread, which shifts colours (40.9 dB against the whole on a smooth picture);
//! so all of them take the group norms' factors from a small copy of the whole.

use super::finite::{Stage, Suspect};
use super::load::Tiling;
use super::posterior::{Posterior, unscale_latents};
use super::tiles::{Blend, shrink, starts};
use super::{Cancel, Pipeline};
use crate::checkpoint::{Autoencoder, Part, TensorSource, VaeFile};
use crate::gpu::{Gpu, block_on};
use crate::graph::{Activations, Executor, Graph, Runner, SharedNorms};
use crate::kernel::Shape;
use crate::kernel::finite::Mark;
use crate::kernel::{Program, Storage, Tensor, View, layout};
use crate::model::{DeviceWeights, Loaded, autoencoder};
use crate::{Error, Field, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Activations beyond which a CPU adapter, whose memory is the machine's, works
/// on tiles.
const WHOLE_BYTES: u64 = 6 << 30;
/// Side of a tile, in latents, where memory does not ask for less; neighbours overlap by
/// a quarter.
const TILE: usize = 96;
/// Longest side of the small copy that the tiles' group norms are measured on, in
/// latents.
const PILOT: usize = 64;

/// A VAE on a device: the checkpoint's own, or another beside it.
#[derive(Clone)]
pub struct Vae<'a> {
    pipeline: &'a Pipeline,
    activations: Activations,
    config: &'a Autoencoder,
    source: &'a dyn TensorSource,
    loaded: &'a Loaded,
    tiling: Tiling,
    /// Side of a tile, in latents.
    tile: usize,
}

impl<'a> Vae<'a> {
    /// The checkpoint's own.
    pub(super) fn new(pipeline: &'a Pipeline, loaded: &'a Loaded, tiling: Tiling) -> Self {
        let checkpoint = &pipeline.base.checkpoint;
        let source = checkpoint.source(Part::Vae);
        Self::with(pipeline, (&checkpoint.vae, source), loaded, tiling)
    }

    /// One that is not the checkpoint's.
    pub(super) fn other(
        pipeline: &'a Pipeline,
        vae: &'a VaeFile,
        loaded: &'a Loaded,
        tiling: Tiling,
    ) -> Self {
        Self::with(pipeline, (&vae.config, vae.source()), loaded, tiling)
    }

    fn with(
        pipeline: &'a Pipeline,
        (config, source): (&'a Autoencoder, &'a dyn TensorSource),
        loaded: &'a Loaded,
        tiling: Tiling,
    ) -> Self {
        Self {
            pipeline,
            activations: match (pipeline.precision.activations, config.force_upcast()) {
                (Storage::F16, true) => Activations::Mixed,
                (storage, _) => storage.into(),
            },
            config,
            source,
            loaded,
            tiling,
            tile: TILE,
        }
    }

    /// The same on tiles of `side` latents.
    pub(super) fn on_tiles(self, side: usize) -> Self {
        Self {
            tiling: Tiling::Always,
            tile: side,
            ..self
        }
    }

    /// The same with the next wider activations, where its own may have overflowed.
    pub(super) fn wider(&self) -> Option<Self> {
        let activations = match self.activations {
            Activations::All(Storage::F16) => Activations::Mixed,
            Activations::Mixed => Storage::F32.into(),
            Activations::All(Storage::F32) => return None,
        };
        Some(Self {
            activations,
            ..self.clone()
        })
    }

    /// The graph of `kind` for an input of `side`, ready to run.
    fn pass(
        &self,
        kind: &Kind,
        side: [usize; 2],
        norms: Option<SharedNorms<'_>>,
        host: Option<&Executor>,
    ) -> Result<Pass> {
        let pipeline = self.pipeline;
        let (gpu, mode) = (&pipeline.gpu, pipeline.context.mode);
        let weights = pipeline.precision.weights;
        let weights = DeviceWeights::new(gpu, self.source, weights, self.loaded);
        let graph = (kind.graph)(self.config, side).optimise();
        pipeline.tune_for(&graph, self.activations, &|| false)?;
        let none = HashMap::new();
        let executor = Executor::with_norms(
            &pipeline.context,
            self.activations,
            &graph,
            &weights,
            &none,
            norms,
            host,
        )
        .map_err(|e| self.suspect(kind).blamed(e))?;
        let planes = |t: &Tensor| {
            let bytes = (t.rows() * t.c * 4) as u64;
            Ok::<_, Error>(View::whole(&Arc::new(gpu.buffer("planes", bytes)?)))
        };
        let input = executor.input(kind.input).cloned();
        let input = input.ok_or_else(|| gpu.error("the VAE has no input", "report this bug"))?;
        let output = executor.output(0).clone();
        let (from, to) = (planes(&input)?, planes(&output)?);
        let [before, after] = kind.affine;
        let import = layout::to_pixels(mode, &from, &input, before)?;
        let mut export = vec![layout::to_planes(mode, &output, &to, after)?];
        let mark = Mark::new(gpu)?;
        export.extend(mark.watch(gpu, mode, &to, output.rows() * output.c, None)?);
        Ok(Pass {
            executor,
            import: Program::new(gpu, vec![import])?,
            export: Program::new(gpu, export)?,
            mark,
            suspect: self.suspect(kind),
            from,
            to,
        })
    }

    /// Bytes of activations for latents of `[h, w]`, decoded and, if `encodes`, encoded:
    /// on tiles where it always works on them.
    pub(super) fn planned_bytes(&self, size: [usize; 2], encodes: bool) -> u64 {
        let mode = self.pipeline.context.mode;
        let bytes = |graph: Graph, values: usize| {
            let planned = graph.optimise().planned_bytes(mode, self.activations).0;
            // Planes of what comes and goes.
            planned + 4 * values as u64
        };
        let of = |[h, w]: [usize; 2]| {
            let config = self.config;
            let scale = config.scale();
            let values =
                h * w * (config.latent_channels() + scale * scale * config.picture_channels());
            let decoder = bytes(autoencoder::decoder(config, [h, w]), values);
            let encoder = match encodes && config.has_encoder() {
                true => bytes(autoencoder::encoder(config, [h * scale, w * scale]), values),
                false => 0,
            };
            decoder.max(encoder)
        };
        match self.tiling {
            Tiling::Always => of(size.map(|side| side.min(self.tile))),
            Tiling::Auto | Tiling::Never => of(size),
        }
    }

    /// What of decoding latents of `[h, w]` whole is measured.
    pub(super) fn decoder_shapes(&self, size: [usize; 2]) -> Vec<Shape> {
        let graph = autoencoder::decoder(self.config, size).optimise();
        graph.measured_shapes(self.activations, self.pipeline.precision.weights)
    }

    fn suspect(&self, kind: &Kind) -> Suspect {
        let storage = match self.activations {
            Activations::All(storage) => storage,
            Activations::Mixed => Storage::F16,
        };
        Suspect::vae(kind.stage, storage)
    }

    /// Decodes the latents of several pictures with this VAE's `decoder`; those whose
    /// activations overflow once more with wider ones, which is said in `warnings`.
    /// `next` hears of every picture before its turn.
    pub(super) async fn decode_all(
        &self,
        decoder: Coder,
        latents: &[&[f32]],
        cancel: &Cancel,
        next: &mut dyn FnMut(usize),
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Vec<f32>>> {
        let size = decoder.size;
        let (mut vae, mut decoder) = (self.clone(), decoder);
        let mut decoded = vec![None; latents.len()];
        loop {
            let wider = vae.wider();
            for (index, (one, latents)) in decoded.iter_mut().zip(latents).enumerate() {
                if one.is_some() {
                    continue;
                }
                next(index);
                match decoder.decode_async(latents, cancel).await {
                    Err(e) if e.is_not_finite() && wider.is_some() => {}
                    made => *one = Some(made?),
                }
            }
            self.pipeline.gpu.note_reserved();
            let missing = decoded.iter().filter(|one| one.is_none()).count();
            let (Some(wider), 1..) = (wider, missing) else {
                return Ok(decoded.into_iter().flatten().collect());
            };
            // The old one's memory first.
            drop(decoder);
            decoder = wider.decoder(size)?;
            warnings.push(wider.overflowed(Stage::VaeDecoder, missing));
            vae = wider;
        }
    }

    /// As [`Self::encode_distribution`], once more with wider activations where they
    /// overflow, which is said in `warnings`.
    pub(super) async fn encode_or_widen(
        &self,
        picture: &[f32],
        size: [usize; 2],
        cancel: &Cancel,
        warnings: &mut Vec<String>,
    ) -> Result<Posterior> {
        let mut vae = self.clone();
        loop {
            let encoder = vae.encoder(size)?;
            let encoded = encoder.encode_async(picture, cancel).await;
            match (encoded, vae.wider()) {
                (Err(e), Some(wider)) if e.is_not_finite() => {
                    warnings.push(wider.overflowed(Stage::VaeEncoder, 1));
                    vae = wider;
                }
                (encoded, _) => return encoded,
            }
        }
    }

    /// What is said where narrower activations overflowed.
    fn overflowed(&self, stage: Stage, pictures: usize) -> String {
        let pictures = match pictures {
            1 => "a picture is".into(),
            _ => format!("{pictures} pictures are"),
        };
        let how = match self.activations {
            Activations::Mixed => "with sums in f32",
            Activations::All(_) => "in f32",
        };
        format!("{stage} overflowed in f16; {pictures} worked out once more {how}")
    }

    /// A decoder for latents of `[h, w]`.
    pub fn decoder(&self, size: [usize; 2]) -> Result<Coder> {
        let config = self.config;
        let kind = Kind {
            stage: Stage::VaeDecoder,
            input: "latents",
            channels: [config.latent_channels(), config.picture_channels()],
            graph: autoencoder::decoder,
            affine: [[1.0, 0.0], autoencoder::picture_range(config)[1]],
            up: config.scale(),
            down: 1,
        };
        self.coder(size, kind)
    }

    /// An encoder for pictures of `[h, w]` pixels.
    ///
    /// # Errors
    /// Where the sides are no multiples of the VAE's scale, or the VAE is a decoder
    /// alone.
    pub fn encoder(&self, size: [usize; 2]) -> Result<Coder> {
        let (config, scale) = (self.config, self.config.scale());
        if !config.has_encoder() {
            let allowed = "encoding a picture takes its encoder too: use a whole VAE, or keep taesdxl_encoder.safetensors beside taesdxl_decoder.safetensors";
            return Err(Error::invalid(Field::Vae, "a decoder alone", allowed));
        }
        let [h, w] = size;
        if h % scale != 0 || w % scale != 0 {
            let allowed = format!("this VAE takes multiples of {scale} pixels");
            return Err(Error::invalid("picture", format!("{w}x{h}"), allowed));
        }
        let made = match autoencoder::encodes_moments(config) {
            true => 2 * config.latent_channels(),
            false => config.latent_channels(),
        };
        let kind = Kind {
            stage: Stage::VaeEncoder,
            input: "picture",
            channels: [config.picture_channels(), made],
            graph: autoencoder::encoder,
            affine: [autoencoder::picture_range(config)[0], [1.0, 0.0]],
            up: 1,
            down: scale,
        };
        self.coder(size, kind)
    }

    /// Encodes the planes `[3, h, w]` of a picture of `[h, w]` pixels, -1 to 1; see
    /// [`Self::encoder`] for several of one size.
    pub fn encode_distribution(
        &self,
        picture: &[f32],
        size: [usize; 2],
        cancel: &Cancel,
    ) -> Result<Posterior> {
        self.encoder(size)?.encode(picture, cancel)
    }

    fn coder(&self, size: [usize; 2], kind: Kind) -> Result<Coder> {
        if size.contains(&0) {
            let allowed = "must be at least 1 by 1";
            return Err(Error::invalid(kind.input, format!("{size:?}"), allowed));
        }
        let tile = self.tile * kind.down;
        let tiled = [size[0].min(tile), size[1].min(tile)];
        let fits = || {
            let capabilities = self.pipeline.gpu.capabilities();
            let graph = (kind.graph)(self.config, size).optimise();
            let (bytes, largest) =
                graph.planned_bytes(self.pipeline.context.mode, self.activations);
            largest <= capabilities.max_buffer && (!capabilities.is_cpu || bytes <= WHOLE_BYTES)
        };
        let whole = match self.tiling {
            Tiling::Never => true,
            Tiling::Always => false,
            Tiling::Auto => tiled == size || fits(),
        };
        if whole || tiled == size {
            match self.pass(&kind, size, None, None) {
                Err(e) if self.tiling == Tiling::Auto && e.is_out_of_memory() => {
                    tracing::warn!("{e}: trying tiles");
                }
                pass => return Ok(self.finish(kind, size, size, pass?, None)),
            }
        }
        self.tiles(kind, size, tiled)
    }

    /// Tiles that are normed alike: a small copy of the whole says how. TAESD has no
    /// norms, so that its tiles need none.
    fn tiles(&self, kind: Kind, size: [usize; 2], side: [usize; 2]) -> Result<Coder> {
        let most = PILOT.min(self.tile) * kind.down;
        let longest = size[0].max(size[1]).max(most);
        let small = size.map(|x| (x * most / longest / kind.down).max(1) * kind.down);
        let graph = (kind.graph)(self.config, small);
        let factors = SharedNorms::room(&self.pipeline.gpu, &graph)?;
        if factors.is_empty() {
            let pass = self.pass(&kind, side, None, None)?;
            return Ok(self.finish(kind, size, side, pass, None));
        }
        let norms = |measure| {
            Some(SharedNorms {
                factors: &factors,
                measure,
            })
        };
        // The two never run at the same time.
        let pass = self.pass(&kind, side, norms(false), None)?;
        let pilot = Pilot {
            pass: self.pass(&kind, small, norms(true), Some(&pass.executor))?,
            size: small,
        };
        Ok(self.finish(kind, size, side, pass, Some(pilot)))
    }

    fn finish(
        &self,
        kind: Kind,
        size: [usize; 2],
        side: [usize; 2],
        pass: Pass,
        pilot: Option<Pilot>,
    ) -> Coder {
        Coder {
            gpu: self.pipeline.gpu.clone(),
            config: self.config.clone(),
            pass,
            pilot,
            overlap: self.tile / 4 * kind.down,
            kind,
            size,
            side,
        }
    }
}

/// A graph with the way from planes to its activations and back.
struct Pass {
    executor: Executor,
    import: Program,
    export: Program,
    from: View,
    to: View,
    /// Looks at what `to` holds.
    mark: Mark,
    suspect: Suspect,
}

impl Pass {
    async fn run(&self, gpu: &Arc<Gpu>, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        gpu.upload(&self.from.buffer, bytemuck::cast_slice(input))?;
        self.mark.clear(gpu)?;
        let mut runner = Runner::new(gpu, false)?;
        let cancelled = || cancel.is_cancelled();
        let programs = [&self.import, self.executor.step(), &self.export];
        runner.run_async(|_| {}, &programs, &cancelled).await?;
        runner.finish_async().await?;
        if self.mark.read_async(gpu).await?.is_some() {
            return Err(self.suspect.error());
        }
        let output = self.executor.output(0);
        let count = output.rows() * output.c;
        let bytes = (count * 4) as u64;
        let bytes = gpu.download_async(&self.to.buffer, 0, bytes).await?;
        Ok(Storage::F32.decode(&bytes))
    }
}

/// The whole, made small, from which the tiles' group norms are worked out.
struct Pilot {
    pass: Pass,
    size: [usize; 2],
}

/// Decoder or encoder.
struct Kind {
    stage: Stage,
    input: &'static str,
    /// Of input and output.
    channels: [usize; 2],
    graph: fn(&Autoencoder, [usize; 2]) -> Graph,
    /// Scale and shift of the input's and of the output's values.
    affine: [[f32; 2]; 2],
    /// The output is larger by `up` and smaller by `down`.
    up: usize,
    down: usize,
}

/// A decoder or encoder, ready for pictures of one size.
pub struct Coder {
    gpu: Arc<Gpu>,
    config: Autoencoder,
    pass: Pass,
    /// Where the pass is for a tile of a VAE with group norms.
    pilot: Option<Pilot>,
    kind: Kind,
    size: [usize; 2],
    /// Of the pass's input: the whole, or a tile.
    side: [usize; 2],
    overlap: usize,
}

impl Coder {
    /// What is run for the picture or for a tile.
    pub(super) fn program(&self) -> &Program {
        self.pass.executor.step()
    }

    /// Decodes latents `[c, h, w]` as the UNet leaves them to a picture
    /// `[3, 8 h, 8 w]` in -1..1.
    pub fn decode(&self, latents: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        block_on(self.decode_async(latents, cancel))
    }

    /// As [`Self::decode`], without blocking.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub async fn decode_async(&self, latents: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let scaled = unscale_latents(&self.config, latents);
        self.run_async(&scaled, cancel).await
    }

    /// Encodes a picture `[3, h, w]` in -1..1.
    pub fn encode(&self, picture: &[f32], cancel: &Cancel) -> Result<Posterior> {
        block_on(self.encode_async(picture, cancel))
    }

    /// As [`Self::encode`], without blocking.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub async fn encode_async(&self, picture: &[f32], cancel: &Cancel) -> Result<Posterior> {
        let moments = autoencoder::encodes_moments(&self.config);
        Ok(Posterior::new(
            self.run_async(picture, cancel).await?,
            moments,
        ))
    }

    /// Runs the graph over the planes `[c, h, w]`, tile by tile where need be.
    pub fn run(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        block_on(self.run_async(input, cancel))
    }

    /// As [`Self::run`], without blocking.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_async(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let [h, w] = self.size;
        let wanted = self.kind.channels[0] * h * w;
        if input.len() != wanted {
            let allowed = format!("{w}x{h} take {wanted} values");
            return Err(Error::invalid(self.kind.input, input.len(), allowed));
        }
        if self.side == self.size {
            return self.pass.run(&self.gpu, input, cancel).await;
        }
        if let Some(pilot) = &self.pilot {
            let small = shrink(input, self.size, pilot.size);
            pilot.pass.run(&self.gpu, &small, cancel).await?;
        }
        let mut blend = Blend::new(self.out([h, w]), self.kind.channels[1]);
        for y in starts(h, self.side[0], self.overlap, self.kind.down) {
            for x in starts(w, self.side[1], self.overlap, self.kind.down) {
                let mut part = Vec::with_capacity(self.side[0] * self.side[1]);
                for plane in input.chunks(h * w) {
                    for line in plane.chunks(w).skip(y).take(self.side[0]) {
                        part.extend_from_slice(&line[x..x + self.side[1]]);
                    }
                }
                let made = self.pass.run(&self.gpu, &part, cancel).await?;
                let ramp = self.out([self.overlap; 2])[0];
                blend.add(&made, self.out([y, x]), self.out(self.side), ramp);
            }
        }
        Ok(blend.finish())
    }

    /// A length of the input in the output.
    fn out(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|x| x * self.kind.up / self.kind.down)
    }
}

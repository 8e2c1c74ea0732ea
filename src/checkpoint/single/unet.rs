//! A UNet in a file, under the names of the original release or diffusers', below any
//! prefix: its architecture by the shapes, written as `unet/config.json` would say it.

use super::names::Names;
use super::shapes::{HEAD, Object, count, dim, has, object};
use crate::checkpoint::config::UNetConfig;
use crate::checkpoint::file::TensorFile;
use crate::checkpoint::weights::missing;
use crate::{Error, Result};
use serde_json::{Value, json};

/// Where whole checkpoints keep the UNet.
pub(super) const PREFIX: &str = "model.diffusion_model.";

/// Names of a consistency model's projection of the guidance scale: by the original
/// numbering, and diffusers', which its converter leaves as it is.
pub(super) const COND_PROJ: [&str; 2] = [
    "time_embed.cond_proj.weight",
    "time_embedding.cond_proj.weight",
];

/// Where in a file a UNet is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub prefix: &'static str,
    /// Whether its names are diffusers'.
    pub diffusers: bool,
}

/// The names of one way of writing a UNet.
struct Spelling {
    conv_in: &'static str,
    conv_out: &'static str,
    added: &'static str,
    /// The convolution that ends each residual block's first half.
    resnet: &'static str,
}

const ORIGINAL: Spelling = Spelling {
    conv_in: "input_blocks.0.0.weight",
    conv_out: "out.2.weight",
    added: "label_emb.0.0.weight",
    resnet: "in_layers.2.weight",
};

const DIFFUSERS: Spelling = Spelling {
    conv_in: "conv_in.weight",
    conv_out: "conv_out.weight",
    added: "add_embedding.linear_1.weight",
    resnet: "conv1.weight",
};

impl Place {
    const fn new(prefix: &'static str, diffusers: bool) -> Self {
        Self { prefix, diffusers }
    }

    /// Every place that is looked at.
    const ALL: [Place; 5] = [
        Place::new(PREFIX, false),
        Place::new("", false),
        Place::new("", true),
        Place::new("unet.", true),
        Place::new(PREFIX, true),
    ];

    /// Where the UNet of `file` is, if it has one.
    pub fn find(file: &TensorFile) -> Option<Self> {
        Self::ALL.into_iter().find(|place| {
            let spelling = place.spelling();
            let ends = [spelling.conv_in, spelling.conv_out];
            ends.iter().any(|end| has(file, &place.key(end)))
        })
    }

    fn spelling(&self) -> &'static Spelling {
        match self.diffusers {
            true => &DIFFUSERS,
            false => &ORIGINAL,
        }
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The names of its tensors.
    pub fn names(&self, config: &UNetConfig) -> Names {
        match self.diffusers {
            true => Names::Plain {
                prefix: self.prefix.to_string(),
            },
            false => Names::unet(config, self.prefix),
        }
    }

    /// `unet/config.json`; `numbers` of micro-conditioning follow the `pooled` vector.
    pub fn config(&self, file: &TensorFile, pooled: usize, numbers: usize) -> Result<Object> {
        let spelling = self.spelling();
        let reader = Reader {
            file,
            names: file.names(),
            place: *self,
        };
        let blocks = match self.diffusers {
            true => reader.diffusers()?,
            false => reader.original()?,
        };
        let attention = blocks.attention.as_deref();
        let attention =
            attention.ok_or_else(|| missing(file.path(), &self.key("*.attn2.to_k.weight")))?;
        let width = format!("{attention}.transformer_blocks.0.attn2.to_k.weight");
        let projection = format!("{attention}.proj_in.weight");
        let added = dim(file, &self.key(spelling.added), 1)?;
        let guidance = COND_PROJ
            .map(|key| self.key(key))
            .into_iter()
            .find(|key| has(file, key));
        let guidance = guidance.map(|key| dim(file, &key, 1)).transpose()?;
        let mut config = blocks.config(&reader)?;
        let rest = object(json!({
            "in_channels": dim(file, &self.key(spelling.conv_in), 1)?,
            "out_channels": dim(file, &self.key(spelling.conv_out), 0)?,
            "sample_size": 128,
            "cross_attention_dim": dim(file, &width, 1)?,
            "use_linear_projection": file.entry(&projection).is_some_and(|e| e.shape.len() == 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": added.saturating_sub(pooled) / numbers,
            "projection_class_embeddings_input_dim": added,
            "time_cond_proj_dim": guidance,
        }));
        config.extend(rest);
        Ok(config)
    }
}

/// The blocks of a UNet.
#[derive(Default)]
struct Blocks {
    /// Width, and transformer blocks after each resnet, highest resolution first.
    down: Vec<(usize, Vec<usize>)>,
    /// The same of the way up, lowest resolution first.
    up: Vec<Vec<usize>>,
    /// Resnets of the middle, and transformer blocks between them.
    middle: (usize, usize),
    /// The name of some attention.
    attention: Option<String>,
}

struct Reader<'a> {
    file: &'a TensorFile,
    names: Vec<String>,
    place: Place,
}

impl Reader<'_> {
    fn key(&self, rest: &str) -> String {
        self.place.key(rest)
    }

    /// The output channels of a residual block, if there is one.
    fn resnet(&self, block: &str) -> Result<Option<usize>> {
        let key = self.key(&format!("{block}.{}", self.place.spelling().resnet));
        match has(self.file, &key) {
            true => dim(self.file, &key, 0).map(Some),
            false => Ok(None),
        }
    }

    /// Transformer blocks below an attention's name.
    fn depth(&self, blocks: &mut Blocks, attention: &str) -> Result<usize> {
        let attention = self.key(attention);
        let block = |i: usize| format!("{attention}.transformer_blocks.{i}.");
        let depth = count(self.file, |i| format!("{}attn1.to_q.weight", block(i)));
        // A block that lacks this one is no end.
        if self.begins(&block(depth)) {
            let key = format!("{}attn1.to_q.weight", block(depth));
            return Err(missing(self.file.path(), &key));
        }
        if depth > 0 {
            blocks.attention.get_or_insert(attention);
        }
        Ok(depth)
    }

    /// Whether any tensor's name begins so.
    fn begins(&self, start: &str) -> bool {
        self.names.iter().any(|name| name.starts_with(start))
    }

    /// Checks that nothing is below a name that the blocks leave out.
    fn nothing_below(&self, block: &str, tensor: &str) -> Result<()> {
        let block = self.key(block);
        match self.begins(&format!("{block}.")) {
            false => Ok(()),
            true => Err(missing(self.file.path(), &format!("{block}.{tensor}"))),
        }
    }

    /// Walks the input blocks, residual blocks closed at each level by a downsampler;
    /// then as many output blocks, one more at each level.
    fn original(&self) -> Result<Blocks> {
        let mut blocks = Blocks::default();
        let mut level: (usize, Vec<usize>) = Default::default();
        for number in 1.. {
            let block = format!("input_blocks.{number}");
            if let Some(channels) = self.resnet(&format!("{block}.0"))? {
                if !level.1.is_empty() && level.0 != channels {
                    return Err(self.uneven(&block));
                }
                level.0 = channels;
                let depth = self.depth(&mut blocks, &format!("{block}.1"))?;
                level.1.push(depth);
            } else if has(self.file, &self.key(&format!("{block}.0.op.weight"))) {
                blocks.down.push(std::mem::take(&mut level));
            } else {
                break;
            }
        }
        blocks.down.push(level);
        blocks.middle = self.middle(
            &mut blocks,
            ["middle_block.0", "middle_block.1", "middle_block.2"],
        )?;
        let mut number = 0;
        for level in (0..blocks.down.len()).rev() {
            let layers = blocks.down[level].1.len() + 1;
            let depths = (number..number + layers)
                .map(|at| self.depth(&mut blocks, &format!("output_blocks.{at}.1")));
            let depths = depths.collect::<Result<_>>()?;
            blocks.up.push(depths);
            number += layers;
        }
        Ok(blocks)
    }

    /// Resnets of the middle and transformer blocks between them, by the names of the
    /// first resnet, the attention and the second resnet.
    fn middle(&self, blocks: &mut Blocks, names: [&str; 3]) -> Result<(usize, usize)> {
        let [first, attention, second] = names;
        let resnet = self.place.spelling().resnet;
        if self.resnet(first)?.is_none() {
            names
                .iter()
                .try_for_each(|name| self.nothing_below(name, resnet))?;
            return Ok((0, 0));
        }
        let depth = self.depth(blocks, attention)?;
        if depth == 0 {
            let tensor = "transformer_blocks.0.attn1.to_q.weight";
            self.nothing_below(attention, tensor)?;
        }
        if self.resnet(second)?.is_none() {
            self.nothing_below(second, resnet)?;
            return Ok((1, depth));
        }
        Ok((2, depth))
    }

    fn diffusers(&self) -> Result<Blocks> {
        let mut blocks = Blocks::default();
        let side = |blocks: &mut Blocks, name: String| -> Result<(usize, Vec<usize>)> {
            let mut level: (usize, Vec<usize>) = Default::default();
            while let Some(channels) = self.resnet(&format!("{name}.resnets.{}", level.1.len()))? {
                level.0 = channels;
                let attention = format!("{name}.attentions.{}", level.1.len());
                let depth = self.depth(blocks, &attention)?;
                level.1.push(depth);
            }
            Ok(level)
        };
        for number in 0.. {
            let level = side(&mut blocks, format!("down_blocks.{number}"))?;
            if level.1.is_empty() {
                break;
            }
            blocks.down.push(level);
        }
        for number in 0..blocks.down.len() {
            let level = side(&mut blocks, format!("up_blocks.{number}"))?;
            blocks.up.push(level.1);
        }
        let names = [
            "mid_block.resnets.0",
            "mid_block.attentions.0",
            "mid_block.resnets.1",
        ];
        blocks.middle = self.middle(&mut blocks, names)?;
        Ok(blocks)
    }

    fn uneven(&self, block: &str) -> Error {
        let problem = "its width or transformer depth differs from its neighbours'";
        let remedy = "use a checkpoint of SDXL's own architecture, of one width a level";
        Error::tensor(self.file.path(), self.key(block), problem, remedy)
    }
}

impl Blocks {
    /// The part of the configuration that speaks of blocks.
    fn config(&self, reader: &Reader<'_>) -> Result<Object> {
        let missing_block = |name: &str| missing(reader.file.path(), &reader.key(name));
        if self.down.iter().any(|(_, depths)| depths.is_empty()) {
            return Err(missing_block("input_blocks.1.0.in_layers.2.weight"));
        }
        let ups = self.down.iter().rev().zip(&self.up);
        for (i, ((_, down), up)) in ups.enumerate() {
            if up.len() != down.len() + 1 {
                return Err(missing_block(&format!(
                    "up_blocks.{i}.resnets.{}",
                    up.len()
                )));
            }
        }
        let attends = |depths: &[usize]| depths.iter().any(|depth| *depth > 0);
        let is_mixed = |depths: &[usize]| attends(depths) && depths.contains(&0);
        let downs = || self.down.iter().map(|(_, depths)| depths.as_slice());
        if downs().any(is_mixed) || self.up.iter().any(|depths| is_mixed(depths)) {
            return Err(reader.uneven("a level, in which some layers have an attention"));
        }
        let middle = match self.middle {
            (0, _) => Value::Null,
            (1, 0) => json!("UNetMidBlock2D"),
            (2, 1..) => json!("UNetMidBlock2DCrossAttn"),
            _ => return Err(reader.uneven("middle block")),
        };
        let kinds = |way: &str, all: Vec<&[usize]>| -> Vec<String> {
            let kind = |depths: &&[usize]| match attends(depths) {
                true => format!("CrossAttn{way}Block2D"),
                false => format!("{way}Block2D"),
            };
            all.iter().map(kind).collect()
        };
        // A level without attention says nothing of its own; the last one's depth is
        // the middle's.
        let told = |depths: &[usize], otherwise: usize| match attends(depths) {
            true => json!(depths),
            false => json!(otherwise),
        };
        let last = self.down.len() - 1;
        let down: Vec<Value> = downs()
            .enumerate()
            .map(|(i, depths)| told(depths, if i == last { self.middle.1.max(1) } else { 1 }))
            .collect();
        if let (Some([first, ..]), 1..) = (downs().next_back(), self.middle.1)
            && *first > 0
            && *first != self.middle.1
        {
            return Err(reader.uneven("middle block"));
        }
        let up: Vec<Value> = self.up.iter().map(|depths| told(depths, 1)).collect();
        let channels: Vec<usize> = self.down.iter().map(|(channels, _)| *channels).collect();
        let heads: Vec<usize> = channels.iter().map(|c| (c / HEAD).max(1)).collect();
        Ok(object(json!({
            "block_out_channels": channels,
            "layers_per_block": downs().map(<[usize]>::len).collect::<Vec<_>>(),
            "down_block_types": kinds("Down", downs().collect()),
            "up_block_types": kinds("Up", self.up.iter().map(Vec::as_slice).collect()),
            "transformer_layers_per_block": down,
            "reverse_transformer_layers_per_block": up,
            "mid_block_type": middle,
            "num_attention_heads": heads,
        })))
    }
}

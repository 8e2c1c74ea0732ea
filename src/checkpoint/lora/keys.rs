//! What the name of a tensor in an adapter file says: its module and its role.

/// What a tensor is to its module. Shapes are those of linear layers; a convolution's
/// factors have its kernel at the end, or ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// LoRA and LoCon: `[rank, inputs]`.
    Down,
    /// `[outputs, rank]`.
    Up,
    /// The kernel `[rank, rank, kh, kw]` between two 1x1 convolutions.
    Mid,
    /// LoHa: two products `[outputs, rank]` x `[rank, inputs]`.
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    /// Kernels `[rank, rank, kh, kw]` within them.
    HadaT1,
    HadaT2,
    /// LoKr: the smaller factor, whole or as a product.
    LokrW1,
    LokrW1A,
    LokrW1B,
    /// The larger factor, whole or as a product.
    LokrW2,
    LokrW2A,
    LokrW2B,
    /// The kernel within its product.
    LokrT2,
    /// IA3: `[inputs]` or `[outputs]`.
    ChannelScale,
    /// A number: whether those are the inputs.
    OnInput,
    /// A whole difference, in the weight's own shape.
    Diff,
    /// GLoRA: `[inputs, rank]`, `[rank, inputs]`, `[outputs, rank]`, `[rank, inputs]`.
    A1,
    A2,
    B1,
    B2,
    /// The kernel between the last two.
    Bm,
    /// A number; a product counts alpha / rank times.
    Alpha,
    /// DoRA's magnitudes as LyCORIS and kohya write them: `[outputs, 1]` or
    /// `[1, inputs]`.
    DoraScale,
    /// The same as PEFT writes them: `[outputs]`.
    Magnitude,
    /// A difference of the bias.
    DiffB,
}

impl Role {
    /// What names of such tensors end with, for messages.
    pub fn end(self) -> &'static str {
        let mut ends = ENDS.iter();
        let end = ends.find(|(_, role)| *role == self);
        let end = end.map_or("", |(end, _)| end.trim_start_matches('.'));
        end.strip_suffix(".weight").unwrap_or(end)
    }
}

/// Ends of names: kohya's, peft's (once with the adapter's own name), diffusers' of
/// the UNet and of text encoders, those of diffusers' old attention processors, and
/// LyCORIS'.
const ENDS: [(&str, Role); 45] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    ("_lora.alpha", Role::Alpha),
    (".alpha", Role::Alpha),
    (".hada_w1_a", Role::HadaW1A),
    (".hada_w1_b", Role::HadaW1B),
    (".hada_w2_a", Role::HadaW2A),
    (".hada_w2_b", Role::HadaW2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::LokrW1),
    (".lokr_w1_a", Role::LokrW1A),
    (".lokr_w1_b", Role::LokrW1B),
    (".lokr_w2", Role::LokrW2),
    (".lokr_w2_a", Role::LokrW2A),
    (".lokr_w2_b", Role::LokrW2B),
    (".lokr_t2", Role::LokrT2),
    (".on_input", Role::OnInput),
    (".diff", Role::Diff),
    (".w_norm", Role::Diff),
    (".diff_b", Role::DiffB),
    (".b_norm", Role::DiffB),
    (".a1.weight", Role::A1),
    (".a2.weight", Role::A2),
    (".b1.weight", Role::B1),
    (".b2.weight", Role::B2),
    (".bm.weight", Role::Bm),
    (".dora_scale", Role::DoraScale),
    (".lora_magnitude_vector", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector.default", Role::Magnitude),
    (".lora_magnitude_vector.default.weight", Role::Magnitude),
    ("_lora.lora_magnitude_vector", Role::Magnitude),
    ("_lora.lora_magnitude_vector.weight", Role::Magnitude),
];

/// The end of IA3's scales, which says so only beside an `on_input`.
const CHANNEL_SCALE: &str = ".weight";

/// Pieces of names, between dots, that only other kinds of adapters have; those with an
/// underscore at the end are beginnings.
const OTHERS: [(&str, &str); 8] = [
    ("oft_", "OFT"),
    ("ia3_", "IA3 in PEFT's form"),
    ("lokr_t1", "LoKr with a kernel in its smaller factor"),
    ("set_weight", "whole weights in place of others"),
    ("scalar", "LoCon with a trained scalar"),
    ("lora_embedding_", "LoRA of embeddings"),
    ("lora_bias", "LoRA with biases"),
    ("lora_controlnet", "Control-LoRA"),
];

/// Ends of a LoRA's own biases.
const BIASES: [&str; 4] = [
    ".lora_B.bias",
    ".lora_B.default.bias",
    ".lora_up.bias",
    ".lora.up.bias",
];

/// The module, as the file writes it, and the role; `None` for names that are no
/// adapter's.
pub(super) fn split(key: &str) -> Option<(&str, Role)> {
    let mut ends = ENDS.iter();
    ends.find_map(|(end, role)| Some((key.strip_suffix(end)?, *role)))
}

/// The module whose channels a tensor of this name scales, if it is IA3's.
pub(super) fn scaled_module(key: &str) -> Option<&str> {
    key.strip_suffix(CHANNEL_SCALE)
}

/// The name that says that [`scaled_module`]'s module is IA3's.
pub(super) fn on_input(module: &str) -> String {
    format!("{module}.on_input")
}

/// The kind of adapter that alone has such a name, where it is none that can be read.
pub(super) fn other_kind(key: &str) -> Option<&'static str> {
    if BIASES.iter().any(|end| key.ends_with(end)) {
        return Some("LoRA with biases");
    }
    let kind = |piece: &str| {
        let mut others = OTHERS.iter();
        let is = |name: &str| match name.ends_with('_') {
            true => piece.starts_with(name),
            false => piece == name,
        };
        others.find_map(|(name, kind)| is(name).then_some(*kind))
    };
    key.split('.').find_map(kind)
}

/// A module's name as kohya writes it: dots become underscores. diffusers' attention
/// processors, which hold no weights of their own, are left out.
pub(super) fn flat(module: &str) -> String {
    module.replace('.', "_").replace("_processor_", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_module_and_role() {
        let cases = [
            (
                "lora_unet_a_b.lora_down.weight",
                "lora_unet_a_b",
                Role::Down,
            ),
            ("unet.a.to_q.lora_B.weight", "unet.a.to_q", Role::Up),
            ("a.to_q.lora_A.default.weight", "a.to_q", Role::Down),
            ("a.to_q.lora.up.weight", "a.to_q", Role::Up),
            ("a.fc1.lora_linear_layer.down.weight", "a.fc1", Role::Down),
            (
                "attn1.processor.to_q_lora.up.weight",
                "attn1.processor.to_q",
                Role::Up,
            ),
            ("lora_te1_x.alpha", "lora_te1_x", Role::Alpha),
            ("a.to_q_lora.alpha", "a.to_q", Role::Alpha),
            ("x.lora_mid.weight", "x", Role::Mid),
            ("x.hada_w1_a", "x", Role::HadaW1A),
            ("x.diff", "x", Role::Diff),
            ("x.b_norm", "x", Role::DiffB),
            ("x.lora_magnitude_vector.weight", "x", Role::Magnitude),
        ];
        for (key, module, role) in cases {
            assert_eq!(split(key), Some((module, role)), "{key}");
            assert_eq!(other_kind(key), None, "{key}");
        }
        assert_eq!(split("conv_in.weight"), None);
        assert_eq!(other_kind("model.diffusion_model.out.0.bias"), None);
        assert_eq!(other_kind("x.oft_blocks"), Some("OFT"));
        assert_eq!(Role::Up.end(), "lora_up");
        assert_eq!(Role::HadaW2B.end(), "hada_w2_b");
        assert_eq!(other_kind("x.lora_B.bias"), Some("LoRA with biases"));
        assert_eq!(flat("attn1.processor.to_q"), "attn1_to_q");
    }
}

//! Epilogues of layers.

use crate::kernel::Activation;

/// An epilogue by its parts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    pub scale: Option<f32>,
    pub bias: bool,
    pub channel: bool,
    pub geglu: bool,
    pub activation: Activation,
    pub residual: bool,
}

impl Parts {
    pub const BIAS: Self = Self {
        scale: None,
        bias: true,
        channel: false,
        geglu: false,
        activation: Activation::None,
        residual: false,
    };

    pub const GEGLU: Self = Self {
        geglu: true,
        ..Self::BIAS
    };

    /// Every part alone, and the combinations that the models use.
    pub fn all() -> Vec<Self> {
        let none = Self::default();
        let bias = Self::BIAS;
        let scale = Some(0.37);
        let activated = |activation, parts| Self {
            activation,
            ..parts
        };
        vec![
            none,
            bias,
            Self { scale, ..none },
            Self {
                channel: true,
                ..none
            },
            Self {
                residual: true,
                ..none
            },
            Self {
                geglu: true,
                ..none
            },
            activated(Activation::Silu, none),
            activated(Activation::Gelu, bias),
            activated(Activation::QuickGelu, bias),
            activated(Activation::Relu, bias),
            activated(Activation::SoftClamp, none),
            Self::GEGLU,
            Self {
                scale: Some(-1.5),
                ..Self::GEGLU
            },
            Self {
                channel: true,
                ..bias
            },
            Self {
                residual: true,
                ..bias
            },
            Self {
                scale,
                bias: true,
                channel: true,
                geglu: false,
                activation: Activation::Silu,
                residual: true,
            },
        ]
    }
}

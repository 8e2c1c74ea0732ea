//! What the operator says, and the types of it.

mod broker_url;
mod listen;
mod network;
pub mod price;
mod public_url;
mod settings;

pub use broker_url::BrokerUrl;
pub use listen::Listen;
pub use network::Network;
pub use public_url::{PublicUrl, name_of};
pub use settings::{Config, Limits, LogFormat, Role, Setup};

//! What models a process brings to the broker.

use super::broker::Broker;
use crate::pipeline::ModelFacts;
use crate::server::config::BrokerUrl;
use crate::server::work::Service;
use crate::{Error, Result};

/// Names and fingerprints of a service's models.
///
/// # Errors
/// A checkpoint cannot be read.
async fn fingerprints(service: &Service) -> Result<Vec<[String; 2]>> {
    let service = service.clone();
    let read = tokio::task::spawn_blocking(move || {
        let models = service.setup.models().map(|options| {
            let name = ModelFacts::of(options)?.name;
            Ok([name, ModelFacts::fingerprint(options)?])
        });
        models.collect::<Result<Vec<_>>>()
    });
    read.await
        .map_err(|e| Error::internal("fingerprints", e.to_string()))?
}

/// A new name for this process, its connection as a `role`, and its models.
///
/// # Errors
/// The broker refuses, or a checkpoint cannot be read.
pub async fn connect(
    service: &Service,
    url: &BrokerUrl,
    role: &str,
) -> Result<(String, Broker, Vec<[String; 2]>)> {
    let id = format!("{:012x}", rand::random::<u64>() >> 16);
    let broker = Broker::connect(url, &service.setup.config, &format!("{role}-{id}")).await?;
    Ok((id, broker, fingerprints(service).await?))
}

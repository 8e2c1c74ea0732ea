//! What models a process has.

use crate::pipeline::ModelFacts;
use crate::server::work::Service;
use crate::{Error, Result};

/// Names and fingerprints of a service's models.
///
/// # Errors
/// A checkpoint cannot be read.
pub async fn fingerprints(service: &Service) -> Result<Vec<[String; 2]>> {
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

//! What requests share.

use super::bodies::Bodies;
use crate::server::config::Network;
use crate::server::work::Service;
use axum::extract::FromRef;
use std::sync::Arc;

/// The service, and what stands before it.
#[derive(Clone)]
pub struct App {
    pub service: Service,
    /// Memory for requests' bodies.
    pub bodies: Arc<Bodies>,
    /// Whose `X-Forwarded-` headers are believed.
    pub proxies: Arc<[Network]>,
}

impl App {
    pub fn new(service: Service) -> Self {
        let config = &service.setup.config;
        Self {
            bodies: Bodies::new(config.max_bodies),
            proxies: config.trusted_proxies.clone().into(),
            service,
        }
    }
}

impl FromRef<App> for Service {
    fn from_ref(app: &App) -> Self {
        app.service.clone()
    }
}

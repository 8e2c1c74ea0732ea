//! The service from its start to its end.

use super::config::{Role, Setup};
use super::fleet::{Front, Worker};
use super::http::{self, App, Listener, Serving, Tls};
use super::router::router;
use super::signals::Signals;
use super::work::{self, Service};
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// Serves until a signal says stop. `listening` hears the address, such as
/// `http://127.0.0.1:7860`, once requests are taken; the model is loaded after that.
///
/// # Errors
/// The settings make no sense, the address is taken, a file cannot be used, or the
/// model cannot be loaded.
pub fn serve(setup: Setup, listening: impl FnOnce(&str)) -> Result<()> {
    give_large_buffers_back();
    let config = &setup.config;
    config.check()?;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::open(certificate, key)?)),
        _ => None,
    };
    // Before anything is touched that another service may use.
    let listener = Listener::bind(&config.listen)?;
    // systemd may have opened another address than the settings name.
    if !listener.is_unix() {
        config.check_exposure(&listener.address().parse()?)?;
    }
    let scheme = match (listener.is_unix(), &tls) {
        (true, _) => "",
        (false, None) => "http://",
        (false, Some(_)) => "https://",
    };
    let address = format!("{scheme}{}", listener.address());
    let service = Service::open(setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::file("/", e, "allow this user more threads"))?;
    // From now on no signal ends the process at once.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen().map_err(|e| Error::file("/", e, "see that signals can be heard"))?
    };
    let drawing = runtime.block_on(Drawing::open(&service))?;
    listening(&address);
    let result = runtime.block_on(run(service, drawing, listener, tls, signals));
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// Has glibc give buffers of a MiB and more, bodies and pictures, back to the system when
/// they are freed. It else raises that size (to 32 MiB, mallopt(3)) with each that is
/// freed, and holes in its pools stay.
fn give_large_buffers_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number of the allocator, before threads are started that could
    // set it too.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Who draws.
#[derive(Clone)]
enum Drawing {
    /// This process' devices.
    Here,
    /// Workers elsewhere.
    Elsewhere(Arc<Front>),
    /// This process' devices, for front ends elsewhere.
    ForOthers(Arc<Worker>),
}

impl Drawing {
    /// Connects to the broker, where there is one.
    async fn open(service: &Service) -> Result<Self> {
        let setup = &service.setup;
        let connect = match (setup.role, &setup.config.broker) {
            (Role::Whole, _) | (_, None) => return Ok(Self::Here),
            (role, Some(url)) => (role, url),
        };
        let service = service.clone();
        Ok(match connect {
            (Role::Front, url) => Self::Elsewhere(Front::connect(service, url).await?),
            (_, url) => Self::ForOthers(Worker::connect(service, url).await?),
        })
    }

    /// Draws until the service stops.
    async fn run(self, service: Service) -> Result<()> {
        match self {
            Self::Here => draw(&service)?.await,
            Self::Elsewhere(front) => {
                let looked = tokio::task::spawn_blocking(move || service.look_at_models());
                looked
                    .await
                    .map_err(|e| Error::internal("models", e.to_string()))??;
                front.run().await;
                Ok(())
            }
            Self::ForOthers(worker) => {
                tokio::try_join!(draw(&service)?, worker.run())?;
                Ok(())
            }
        }
    }

    /// Lets nobody in any more. What waits is turned away, unless workers draw it.
    fn stop(&self, service: &Service) {
        match self {
            Self::Elsewhere(_) => {
                tracing::info!("stopping: what is there is drawn");
                service.drain();
            }
            Self::Here | Self::ForOthers(_) => {
                tracing::info!("stopping: what runs is finished, what waits is turned away");
                service.stop();
            }
        }
    }
}

async fn run(
    service: Service,
    drawing: Drawing,
    listener: Listener,
    tls: Option<Arc<Tls>>,
    mut signals: Signals,
) -> Result<()> {
    /// For answers that are on their way when all work is done.
    const LAST_ANSWERS: Duration = Duration::from_secs(10);
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let app = App::new(service.clone());
    let serving = tokio::spawn(http::serve(listener, serving(&app, tls.clone()), stopped));
    let tidying = tokio::spawn(tidy(service.clone()));

    let mut end = std::pin::pin!(drawing.clone().run(service.clone()));
    let reload = || reload(tls.as_deref());
    let (result, grace) = tokio::select! {
        // The model cannot be loaded.
        result = &mut end => (result, LAST_ANSWERS),
        () = signals.stop(reload) => {
            drawing.stop(&service);
            let limit = Duration::from_secs(service.setup.config.stop_timeout);
            tokio::select! {
                result = &mut end => (result, LAST_ANSWERS),
                // What still runs has no answer to wait for.
                () = tokio::time::sleep(limit) => (Ok(()), Duration::ZERO),
                () = signals.stop(reload) => (Ok(()), Duration::ZERO),
            }
        }
    };
    app.bodies.close();
    stop.send_replace(Some(grace));
    if let Ok(Err(error)) = serving.await {
        tracing::error!("the listener failed: {error}");
    }
    tidying.abort();
    let _ = tokio::task::spawn_blocking(move || service.tidy()).await;
    result
}

/// Starts a thread for each device. The end comes when all have ended, or one with an
/// error.
fn draw(service: &Service) -> Result<impl Future<Output = Result<()>> + use<>> {
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    for device in 0..service.devices.len() {
        let (service, ended) = (service.clone(), ended.clone());
        std::thread::Builder::new()
            .name(format!("device {device}"))
            .spawn(move || ended.send(work::work(&service, device)))
            .map_err(|e| Error::file("/", e, "allow this user more threads"))?;
    }
    Ok(async move {
        while let Some(result) = end.recv().await {
            result?;
        }
        Ok(())
    })
}

/// How connections are served.
fn serving(app: &App, tls: Option<Arc<Tls>>) -> Serving {
    let config = &app.service.setup.config;
    let (proxies, service) = (app.proxies.clone(), app.service.clone());
    Serving {
        app: router(app.clone()),
        tls,
        idle: Duration::from_secs(config.read_timeout),
        most: config.max_connections,
        most_per_address: config.max_connections_per_address,
        is_proxy: Box::new(move |address| proxies.iter().any(|network| network.has(address))),
        count: Box::new(move |count| service.metrics.connections(count)),
    }
}

/// Forgets what is too old, though nobody asks.
async fn tidy(service: Service) {
    const PERIOD: Duration = Duration::from_secs(1);
    /// Of so many, one keeps the books: says that this service lives, looks for others that
    /// died.
    const ROUND: usize = 5;
    let mut period = tokio::time::interval(PERIOD);
    for count in (0..ROUND).cycle() {
        period.tick().await;
        let service = service.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            service.tidy();
            if count == 0 {
                service.keep_books();
            }
        });
        if let Err(error) = tidied.await {
            tracing::error!("{error}");
        }
    }
}

/// What a running service reads again.
fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => tracing::info!("SIGHUP: there is nothing to read again"),
        Some(Ok(())) => tracing::info!("SIGHUP: the certificate was read again"),
        Some(Err(error)) => tracing::error!("SIGHUP: the old certificate stays: {error}"),
    }
}
